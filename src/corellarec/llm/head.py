"""The output layer: logits of the answers alone, verified against the model's own."""

from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from corellarec.base.errors import ModelError

TOKENS = 8  # of the sequence that verifies it


class AnswerHead:
    """Logits of the answers from last hidden states, without those of the other tokens.

    Their rows of the output layer's weight and bias are multiplied in fp32, then come the model's
    logit scale and soft cap. The result is verified by a test pass: where the model's own forward
    gives other logits on a short sequence, because its output layer does something else, the
    model's own code computes the logits of the whole vocabulary at the answer positions instead.

    Args:
        model: A causal language model; no random number is drawn.
        answers: Token ids of the answers.

    Attributes:
        own: The model with its decoder left out, where its own code computes the logits; else None.

    Raises:
        ModelError: If neither way gives the logits of the model's own forward.

    Example:
        >>> head = AnswerHead(model, (2249, 3771))  # doctest: +SKIP
        >>> head(model.get_decoder()(ids).last_hidden_state[:, -1]).shape  # doctest: +SKIP
        torch.Size([8, 2])
    """

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, answers: tuple[int, ...]) -> None:
        self.model, self.answers = model, list(answers)
        self.own: PreTrainedModel | None = None
        was_training = model.training
        model.eval()
        try:
            vocabulary = model.config.get_text_config().vocab_size
            ids = (torch.arange(TOKENS, device=model.device) % vocabulary).unsqueeze(0)
            expected = model(input_ids=ids, use_cache=False).logits[0, :, self.answers]
            last = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0]
            # Another kind of layer, such as peft's, does more than multiply.
            if isinstance(model.get_output_embeddings(), nn.Linear) and _close(
                self(last), expected
            ):
                return
            self.own = _without_decoder(model)
            if not self._runs_alone(last, expected):
                raise ModelError(
                    f"the logits of {type(model).__name__} cannot be computed from its last "
                    "hidden states alone, which is needed here: choose a model of another family"
                )
        finally:
            model.train(was_training)

    def _runs_alone(self, last: Tensor, expected: Tensor) -> bool:
        """Whether the model's own code gives the logits from last hidden states."""
        try:
            return _close(self(last), expected)
        except (TypeError, ValueError, AttributeError, NotImplementedError, RuntimeError):
            return False  # it wants more of its decoder

    def __call__(self, last: Tensor) -> Tensor:
        """``(n, answers)`` fp32: logits of the answers of hidden states ``(n, hidden)``."""
        if self.own is not None:
            return self.own(inputs_embeds=last.unsqueeze(0)).logits[0, :, self.answers].float()
        head: nn.Linear = self.model.get_output_embeddings()  # pyright: ignore
        config = self.model.config.get_text_config()
        logits = last.float() @ head.weight[self.answers].float().T
        if head.bias is not None:
            logits = logits + head.bias[self.answers].float()
        if scale := getattr(config, "logit_scale", None):  # Cohere
            logits = logits * scale
        if divisor := getattr(config, "logits_scaling", None):  # Granite
            logits = logits / divisor
        if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
            logits = torch.tanh(logits / cap) * cap
        return logits


class _GivenHidden(nn.Module):
    """Stands where a decoder does, and returns as last hidden states what it is given."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutputWithPast:  # noqa: ANN401 (the decoder's)
        return BaseModelOutputWithPast(last_hidden_state=inputs_embeds)  # pyright: ignore


def _without_decoder(model: PreTrainedModel) -> PreTrainedModel:
    """The model, sharing its parameters, whose inputs are last hidden states."""
    decoder, own = model.get_decoder(), copy(model)
    own._modules = {
        name: _GivenHidden() if part is not None and decoder in part.modules() else part
        for name, part in model._modules.items()
    }
    return own


def _close(logits: Tensor, expected: Tensor) -> bool:
    """Whether logits are equal but for rounding, which is coarse in 16 bits."""
    error = (logits - expected.float()).norm() / expected.float().norm()
    return bool(error < (1e-3 if expected.dtype == torch.float32 else 2e-2))
