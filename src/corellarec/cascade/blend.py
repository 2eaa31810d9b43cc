"""The blend: both models' logits to one, fitted on validation data."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from corellarec.base.calibrate import LogisticMap, bounded, fit_logistic
from corellarec.base.metrics import Floats, Labels
from corellarec.base.numbers import Weight
from corellarec.cascade.policy import Known


@dataclass(frozen=True)
class Blend:
    """A weighted sum of both logits, with weights that depend on the length of the history.

    With ``t`` from 0 (no history) to 1 (the longest), and n training rows of the item,

        ``logit = (1 - t) (a crm + b llm) + t (c crm + d llm) + e t + f ln(1 + n) + bias``

    is non-decreasing in both logits, whatever the history, for a to d are never negative. The
    plain blend is the case ``a = c``, ``b = d``, ``e = f = 0``.

    Args:
        weights: a to f.
        bias: Added to the weighted sum.
        longest: Rows of history at which t is 1, at least 1.
    """

    weights: Annotated[tuple[Weight, ...], Field(min_length=6, max_length=6)]
    bias: Weight
    longest: Annotated[Weight, Field(ge=1.0)]

    def __call__(self, known: Known, llm_logit: Floats) -> Floats:
        """Logits ``(n,)`` of the blend."""
        return LogisticMap(self.weights, self.bias)(*_inputs(known, llm_logit, self.longest))


def _inputs(known: Known, llm_logit: Floats, longest: float) -> list[Floats]:
    crm, llm = bounded(known.crm_logit), bounded(llm_logit)
    t = np.minimum(np.log1p(known.history_length) / np.log1p(longest), 1.0)
    return [(1 - t) * crm, (1 - t) * llm, t * crm, t * llm, t, np.log1p(known.item_count)]


def fit_plain(label: Labels, known: Known, llm_logit: Floats) -> Blend:
    """The blend of both logits alone.

    Args:
        label: ``(n,)`` of 0 and 1, both present.
        known: What is known of the rows before the LLM runs.
        llm_logit: ``(n,)`` the LLM's logits.
    """
    found = fit_logistic(label, known.crm_logit, llm_logit)
    return Blend((*found.weights, *found.weights, 0.0, 0.0), found.bias, 1.0)


def fit_full(label: Labels, known: Known, llm_logit: Floats | None) -> Blend:
    """The blend with all six weights; without the LLM's if ``llm_logit`` is None.

    Args:
        label: ``(n,)`` of 0 and 1, both present.
        known: What is known of the rows before the LLM runs.
        llm_logit: ``(n,)`` the LLM's logits.
    """
    longest = max(float(known.history_length.max()), 1.0)
    inputs = _inputs(known, np.zeros(len(label)) if llm_logit is None else llm_logit, longest)
    found = fit_logistic(label, *inputs, free=2)
    return Blend(found.weights, found.bias, longest)
