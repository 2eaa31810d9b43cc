"""What a cascade answers, and what it knows before."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from corellarec.base.metrics import Floats, entropy, sigmoid, to_logit
from corellarec.cascade.budget import Mask
from corellarec.cascade.models import Models
from corellarec.cascade.policy import Known
from corellarec.cascade.router import Router
from corellarec.data.log import Log, Samples


@dataclass(frozen=True)
class CrmScored:
    """Rows that the CRM has scored and the router has not seen.

    Args:
        log: The log that holds their histories.
        samples: ``n`` rows.
        known: ``n`` rows of what is known of them, the CRM's logit among it.
    """

    log: Log
    samples: Samples
    known: Known


@dataclass(frozen=True)
class Prediction:
    """What the cascade answers for each sample.

    Args:
        p: ``(n,)`` the cascade's probability.
        p_crm: ``(n,)`` the calibrated CRM's probability.
        p_llm: ``(n,)`` the calibrated language model's, NaN where it was not asked.
        routed: ``(n,)`` whether the row went to the language model.
        answer: Source of a routed row's ``p``: ``blend`` or ``llm``.
        llm_logit: ``(n,)`` the language model's raw logits, NaN where it was not asked.
        p_next: ``(n,)`` where ``p`` is that of a positive among drawn negatives: the probability
            that the item is the user's next, see :func:`next_log_probability`; else None.
    """

    p: Floats
    p_crm: Floats
    p_llm: Floats
    routed: NDArray[np.bool_]
    answer: str
    llm_logit: Floats
    p_next: Floats | None = None

    def to_frame(self) -> pl.DataFrame:
        """Columns ``p``, ``p_crm``, ``p_llm`` (null if not routed), ``source``, ``entropy``.

        And ``p_next``, where there is one.
        """
        more = {} if self.p_next is None else {"p_next": self.p_next}
        return pl.DataFrame(
            {
                "p": self.p,
                "p_crm": self.p_crm,
                "p_llm": pl.Series(self.p_llm, dtype=pl.Float64).fill_nan(None),
                "source": pl.Series(np.where(self.routed, self.answer, "crm"), dtype=pl.String),
                "entropy": entropy(self.p_crm),
                **more,
            }
        )


def answer(
    router: Router,
    models: Models,
    scored: CrmScored,
    routed: Mask,
    progress: Callable[[int], None] = lambda answered: None,
) -> Prediction:
    """The cascade's answer where some rows are routed, whatever the budget.

    Args:
        router: Calibrations and blend.
        models: The language model among them is asked.
        scored: ``n`` rows.
        routed: ``(n,)`` the rows to ask about; those that a failing server leaves to the CRM are
            taken out.
        progress: Called with the number of rows that the language model has just answered.
    """
    facts = scored.known
    p_crm = sigmoid(router.crm(facts.crm_logit))
    p, llm_logit = p_crm.copy(), np.full(len(p_crm), np.nan)
    if routed.any():
        chosen = torch.from_numpy(np.flatnonzero(routed))
        found, answered = models.ask(scored.log, scored.samples[chosen], progress)
        routed[routed] = answered
        llm_logit[routed] = found[answered]
        p[routed] = router.answer(facts[routed], llm_logit[routed])
    source = "llm" if router.combine == "replace" else "blend"
    p_next = None
    if scored.log.negatives:
        item = scored.samples.item.numpy()
        p_next = np.exp(np.minimum(next_log_probability(scored.log, item, p), 0.0))
    p_llm = sigmoid(router.llm(llm_logit))
    return Prediction(p, p_crm, p_llm, routed, source, llm_logit, p_next)


def next_log_probability(log: Log, item: NDArray[np.int64], p: Floats) -> Floats:
    """``(n,)`` log probability that each item is the user's next, of a log without negatives.

    Of a positive and ``k`` negatives drawn with probability q(item), ``p`` is the positive's share:
    ``p / (1 - p) = P(item | user) / (k q(item))``. Items are ranked by it: where negatives are
    drawn by popularity, ``p`` alone is relative to the item's popularity.

    Args:
        log: How negatives were drawn.
        item: ``(n,)`` item numbers.
        p: ``(n,)`` the probabilities given.

    Source: Mikolov et al. 2013, https://arxiv.org/abs/1310.4546; Yi et al. 2019 (the correction of
    logits by the log of the sampling probability), https://doi.org/10.1145/3298689.3346996
    """
    assert log.negatives
    return to_logit(p) + np.log(log.negatives.per_positive) + log.log_q[item]


def order_of(log: Log, item: NDArray[np.int64], p: Floats) -> Floats:
    """``(n,)`` what items are ranked by, the highest first; arguments as above, of any log."""
    return next_log_probability(log, item, p) if log.negatives else p
