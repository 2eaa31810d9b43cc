"""Loading of language models, and the one that gives logits of two answers."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from corellarec.base.errors import ConfigError, ModelError
from corellarec.llm.attention import Plan, enable_packing
from corellarec.llm.catalog import find_model, first_line
from corellarec.llm.head import AnswerHead
from corellarec.llm.packing import LlmBatch, group, make_batch
from corellarec.llm.sequence import TokenSequence


class LlmOutput(NamedTuple):
    """The language model's output at the answer positions.

    Args:
        logit: ``(answers,)`` fp32, logit(yes) - logit(no); the sigmoid is p(yes).
        answers: ``(answers, n)`` fp32 logits of each answer; yes is any positive one.
        layers: The requested hidden states by name, each ``(answers, hidden)``.
    """

    logit: Tensor
    answers: Tensor
    layers: dict[str, Tensor]


class AnswerModel(nn.Module):
    """A causal language model of which only the answers' logits are computed.

    Args:
        model: The model, with or without an adapter.
        answers: Token ids of the answers, negative ones first.
        checkpointing: Whether training recomputes activations inside the blocks, to save memory.
        negatives: How many of the answers are negative.

    Attributes:
        head: Computes the answers' logits.
        packs: Whether the model reads packed rows, verified by a test pass; else padded ones.

    Example:
        >>> model, tokenizer = load_model("smollm2-135m-instruct", dtype, device)  # doctest: +SKIP
        >>> answer_model = AnswerModel(model, layout.answers)  # doctest: +SKIP
        >>> (batch,) = answer_model.batches(layout.encode(samples), 4096)  # doctest: +SKIP
        >>> answer_model(batch).logit.sigmoid()  # doctest: +SKIP
        tensor([0.6127, 0.4410])

    Raises:
        ModelError: If the logits cannot be computed from last hidden states alone.
    """

    def __init__(
        self,
        model: nn.Module,
        answers: tuple[int, ...],
        checkpointing: bool = False,
        *,
        negatives: int = 1,
    ) -> None:
        super().__init__()
        self.model = model
        self.answers, self.negatives = answers, negatives
        self.head = AnswerHead(self.base, answers)
        self.packs = enable_packing(self.base)
        if checkpointing:
            with warnings.catch_warnings():  # newer versions of transformers have another name
                warnings.simplefilter("ignore", FutureWarning)
                self.base.gradient_checkpointing_enable({"use_reentrant": False})

    @property
    def base(self) -> PreTrainedModel:
        """The Hugging Face model, its adapter in place."""
        get_base = getattr(self.model, "get_base_model", None)
        return get_base() if get_base else self.model  # pyright: ignore[reportReturnType]

    @property
    def depth(self) -> int:
        """Number of layers."""
        return self.base.config.get_text_config().num_hidden_layers

    @property
    def width(self) -> int:
        """Width of a hidden state."""
        return self.base.config.get_text_config().hidden_size

    @property
    def longest(self) -> int | None:
        """Most tokens of a sequence; None where the model's configuration gives none."""
        return getattr(self.base.config.get_text_config(), "max_position_embeddings", None)

    def batches(self, sequences: Sequence[TokenSequence], tokens_per_batch: int) -> list[LlmBatch]:
        """:func:`make_batches` as this model reads them.

        Raises:
            ConfigError: If a sequence is longer than the model reads.
        """
        return [self.batch(one) for one in self.groups(sequences, tokens_per_batch)]

    def groups(
        self, sequences: Sequence[TokenSequence], tokens_per_batch: int
    ) -> list[list[TokenSequence]]:
        """The sequences of each of :meth:`batches`.

        Raises:
            ConfigError: If a sequence is longer than the model reads.
        """
        length = max((one.length for one in sequences), default=0)
        if self.longest is not None and length > self.longest:
            raise ConfigError(
                f"a sequence has {length} tokens and the language model reads {self.longest}: "
                "lower llm.window and llm.history_length"
            )
        return group(sequences, tokens_per_batch, packed=self.packs)

    def batch(self, sequences: Sequence[TokenSequence]) -> LlmBatch:
        """One batch of some sequences, as this model reads it."""
        return make_batch(sequences, packed=self.packs)

    def layer_number(self, name: str) -> int:
        """The layer, 1 to ``depth``, that ``last``, ``middle`` or a number names.

        Raises:
            ValueError: If there is no such layer.

        Example:
            >>> answer_model.layer_number("middle")  # doctest: +SKIP
            15
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

        Padding is at the right, where causal attention hides it from every real token: no attention
        mask is needed.

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
        answers = self.head(out.last_hidden_state[batch.row, batch.place])
        return LlmOutput(self._logit(answers), answers, picked)

    def answer(self, last: Tensor) -> Tensor:
        """``(answers,)`` logit(yes) - logit(no) of last hidden states, ``(answers, hidden)``."""
        return self._logit(self.head(last))

    def _logit(self, answers: Tensor) -> Tensor:
        no, yes = answers.tensor_split([self.negatives], dim=1)
        return yes.logsumexp(1) - no.logsumexp(1)


def load_model(
    name: str, dtype: torch.dtype, device: torch.device, *, fetch: bool = True
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model, in evaluation mode, and its tokenizer.

    Args:
        name: As :func:`find_model` takes it.
        dtype: Of the weights.
        device: Where they go.
        fetch: As for :func:`find_model`.

    Raises:
        ModelError: If the model or its tokenizer is absent, gated, damaged, or not causal.

    Example:
        >>> model, tokenizer = load_model(
        ...     "smollm2-135m-instruct", torch.bfloat16, torch.device("cpu")
        ... )  # doctest: +SKIP
    """
    tokenizer = load_tokenizer(name, fetch=fetch)
    with _explained(name, fetch=fetch) as place:
        model = AutoModelForCausalLM.from_pretrained(
            place, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    nn.Module.to(model, device)
    return model.eval(), tokenizer


def load_encoder_decoder(
    name: str, device: torch.device, setting: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder-decoder such as T5, in float32, and its tokenizer.

    Args:
        name: As :func:`find_model` takes it.
        device: Where it goes.
        setting: The setting that holds the name, for messages.

    Raises:
        ModelError: If the model or its tokenizer is absent, gated, damaged, or of another kind.
    """
    tokenizer = load_tokenizer(name, setting)
    with _explained(name, setting) as place:
        model = AutoModelForSeq2SeqLM.from_pretrained(
            place, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    nn.Module.to(model, device)
    return model, tokenizer


def load_tokenizer(
    name: str, setting: str = "llm.model", *, fetch: bool = True
) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer.

    Args:
        name: As :func:`find_model` takes it.
        setting: The setting that holds the name, for messages.
        fetch: As for :func:`find_model`.

    Raises:
        ModelError: If it is absent, gated or damaged.

    Example:
        >>> load_tokenizer("smollm2-135m-instruct").vocab_size  # doctest: +SKIP
        49152
    """
    with _explained(name, setting, fetch=fetch) as place:
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False)


@contextmanager
def _explained(name: str, setting: str = "llm.model", *, fetch: bool = True) -> Iterator[str]:
    """Where a model is; errors of loading it become one line with a remedy."""
    place = find_model(name, setting, fetch=fetch)
    try:
        yield place
    except Exception as error:  # transformers, hub and safetensors raise many unrelated types
        raise ModelError(
            f"{setting} {name!r} cannot be loaded ({first_line(error)}): {_remedy(error, place)}"
        ) from error


def _remedy(error: BaseException, place: str) -> str:
    if "trust_remote_code" in str(error):
        return "it needs code of its own, which is never run: choose a model of another family"
    if Path(place).exists():
        return "check the files, or delete the directory and fetch it again"
    page = f"https://huggingface.co/{place}"
    text = f"{type(error).__name__} {error}".lower()
    if "gated" in text or "401" in text or "403" in text:
        return (
            f"accept its licence on {page}, then run `hf auth login` with a token of that account"
        )
    if "safetensors" in text:
        return f"only safetensors are loaded, and {page} seems to hold none: convert it first"
    return f"check the name on {page} and the network"
