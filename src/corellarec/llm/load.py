"""A causal language model from a directory or the hub, ready to answer."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from corellarec.errors import ModelError
from corellarec.llm.attention import Plan, enable_packing
from corellarec.llm.batch import LlmBatch
from corellarec.llm.models import OUR_FAULT, find_model, first_line


class LlmOutput(NamedTuple):
    """What the language model says at the answer positions.

    Args:
        logit: ``(answers,)`` fp32, logit(yes) - logit(no); the sigmoid is p(yes).
        layers: Hidden states asked for, by name, each ``(answers, hidden)``.
    """

    logit: Tensor
    layers: dict[str, Tensor]


class AnswerModel(nn.Module):
    """A causal language model of which only the two answers' logits are computed.

    Args:
        model: The model, with or without an adapter.
        answers: Token ids of no and yes.

    Attributes:
        packs: Whether the model reads packed rows; padded ones it reads otherwise.
    """

    def __init__(self, model: nn.Module, answers: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.answers = answers
        self.packs = enable_packing(self.base)

    @property
    def base(self) -> PreTrainedModel:
        """The Hugging Face model, its adapter in place."""
        get_base = getattr(self.model, "get_base_model", None)
        return get_base() if get_base else self.model  # pyright: ignore[reportReturnType]

    @property
    def depth(self) -> int:
        """Number of layers."""
        return self.base.config.num_hidden_layers

    @property
    def width(self) -> int:
        """Width of a hidden state."""
        return self.base.config.hidden_size

    def layer_number(self, name: str) -> int:
        """The layer, 1 to ``depth``, that ``last``, ``middle`` or a number names.

        Raises:
            ValueError: If there is no such layer.
        """
        number = {"last": self.depth, "middle": self.depth // 2}.get(name)
        if number is None and name.isdigit():
            number = int(name)
        if number is None or not 1 <= number <= self.depth:
            raise ValueError(
                f"the language model has no layer {name!r}; there are: last, middle, "
                f"1 to {self.depth}"
            )
        return number

    def forward(self, batch: LlmBatch, layers: Sequence[str] = ()) -> LlmOutput:
        """Answer at the batch's places.

        Padding stands at the right, where causal attention keeps it from every real token, so no
        attention mask is needed.

        Args:
            batch: Packed only if :attr:`packs`.
            layers: Names of hidden layers to return.
        """
        base, device = self.base, self.base.device
        plan = {} if batch.blocks is None else {"plan": Plan(batch.blocks)}
        out = base.get_decoder()(
            input_ids=batch.ids.to(device),
            position_ids=batch.position.to(device),
            use_cache=False,
            output_hidden_states=bool(layers),
            **plan,
        )
        picked = {
            name: out.hidden_states[self.layer_number(name)][batch.row, batch.place].float()
            for name in layers
        }
        return LlmOutput(self.answer(out.last_hidden_state[batch.row, batch.place]), picked)

    def answer(self, last: Tensor) -> Tensor:
        """``(answers,)`` logit(yes) - logit(no) of last hidden states, ``(answers, hidden)``."""
        head: nn.Linear = self.base.get_output_embeddings()  # pyright: ignore[reportAssignmentType]
        no, yes = head.weight[list(self.answers)].float()
        logits = last.float() @ torch.stack([no, yes]).T
        if cap := getattr(self.base.config, "final_logit_softcapping", None):
            logits = torch.tanh(logits / cap) * cap
        return logits[:, 1] - logits[:, 0]


def load_model(
    name: str, dtype: torch.dtype, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer; ``name`` is what :func:`find_model` takes.

    Raises:
        ModelError: If the model or its tokenizer is absent, gated, damaged, or not causal.
    """
    place = find_model(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
        model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, use_safetensors=True)
    except Exception as error:  # transformers, hub and safetensors raise many unrelated types
        if isinstance(error, OUR_FAULT):
            raise
        hint = "check the files, or delete the directory and fetch it again"
        if place == name and not name.startswith((".", "/")):
            hint = (
                "from the hub: check the name and the network; a gated model needs its licence "
                "accepted on its page and `hf auth login`"
            )
        raise ModelError(
            f"llm.model {name!r} cannot be loaded ({first_line(error)}): {hint}"
        ) from error
    nn.Module.to(model, device)
    return model.eval(), tokenizer
