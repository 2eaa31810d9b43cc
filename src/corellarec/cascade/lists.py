"""Lists under a budget: whose list the language model re-ranks, decided before it is asked.

The unit is the list, not the row: one pass reads a user's history and answers all candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import minimize
from scipy.special import softmax
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold

from corellarec.base.bootstrap import Bootstrap
from corellarec.base.calibrate import bounded
from corellarec.base.list_metrics import list_metrics
from corellarec.base.metrics import Floats
from corellarec.base.numbers import Positive, Share, Weight
from corellarec.cascade.router import Verdict

FOLDS = 5
RESAMPLES = 1000
CONFIDENCE = 0.95
MIN_GAIN = 1e-6  # NDCG: less than this is rounding
MIN_LISTS = 20  # fewer asked about cannot show a gain
PENALTY = 1e-3  # of the squared weights of a blend, beside the sum of log losses
PENALTIES = np.logspace(-1, 5, 13)
FEATURES = (
    "entropy of the first scores",
    "lead of the first",
    "lead of the tenth",
    "spread",
    "log history length",
    "user known in training",
    "mean log popularity",
)
OfFeatures = Annotated[
    tuple[Weight, ...], Field(min_length=len(FEATURES), max_length=len(FEATURES))
]
NotNegative = Annotated[float, Field(ge=0.0, le=1e30)]


@dataclass(frozen=True)
class ListScores:
    """Users' lists, scored by what made them and by an expert; ``-inf`` where a list has ended.

    Args:
        base: ``(lists, places)`` scores of what made them, descending.
        expert: ``(lists, places)`` the expert's logits.
        hit: ``(lists, places)`` bool, whether the item is relevant.
        relevant: ``(lists,)`` relevant items of the user, in the list or not.
        facts: ``(lists, 7)`` the columns of ``FEATURES``, known before the expert is asked.
    """

    base: Floats
    expert: Floats
    hit: NDArray[np.bool_]
    relevant: NDArray[np.int64]
    facts: Floats

    def __getitem__(self, index: NDArray[np.int64]) -> "ListScores":
        return ListScores(**{name: column[index] for name, column in vars(self).items()})

    def ndcg(self, score: Floats, k: int) -> Floats:
        """``(lists,)`` NDCG of the lists in the order of a score."""
        order = np.argsort(-score, axis=1, kind="stable")
        return list_metrics(np.take_along_axis(self.hit, order, 1), self.relevant, k)["ndcg"]


def list_facts(
    base: Floats, history_length: NDArray[np.int64], known: NDArray[np.bool_], rows: Floats
) -> Floats:
    """``(lists, 7)`` the columns of ``FEATURES``.

    Args:
        base: ``(lists, places)`` scores, descending; ``-inf`` where a list has ended.
        history_length: ``(lists,)`` rows of the user's history.
        known: ``(lists,)`` whether the user has training rows.
        rows: ``(lists, places)`` training rows of the items.
    """
    there = np.isfinite(base)
    score = np.where(there, base, np.where(there, base, np.inf).min(1, keepdims=True))
    share = np.where(there, np.exp(score - score[:, :1]), 0.0)
    share /= share.sum(1, keepdims=True)
    entropy = -(share * np.log(np.maximum(share, 1e-30))).sum(1)
    second, tenth = min(1, score.shape[1] - 1), min(9, score.shape[1] - 1)
    columns = [
        entropy,
        score[:, 0] - score[:, second],
        score[:, 0] - score[:, tenth],
        score.std(1),
        np.log1p(history_length),
        known.astype(np.float64),
        np.log1p(rows[:, :10]).mean(1),
    ]
    return np.column_stack(columns)


@dataclass(frozen=True)
class ListBlend:
    """``base_weight base + expert_weight expert`` orders a list; no weight is ever negative."""

    base_weight: NotNegative
    expert_weight: NotNegative

    def __call__(self, base: Floats, expert: Floats) -> Floats:
        """``(lists, places)`` of both scores; ``-inf`` where a list has ended."""
        there = np.isfinite(base)
        base, expert = _finite(base, expert)
        score = self.base_weight * base + self.expert_weight * expert
        return np.where(there, score, -np.inf)


@dataclass(frozen=True)
class ListValue:
    """NDCG that re-ranking a list is expected to gain: linear in its facts.

    Facts are first clipped to their range on validation.

    Args:
        weights: ``(7,)`` of the facts.
        bias: Added to the weighted sum.
        low: ``(7,)`` smallest value of each fact on validation.
        high: ``(7,)`` largest.
    """

    weights: OfFeatures
    bias: Weight
    low: OfFeatures
    high: OfFeatures

    def __call__(self, facts: Floats) -> Floats:
        """``(lists,)`` of ``(lists, 7)`` facts."""
        # Term by term: a matrix product rounds a row differently in batches of different sizes.
        clipped = np.clip(facts, self.low, self.high).T
        return self.bias + sum(w * x for w, x in zip(self.weights, clipped, strict=True))  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class ListPolicy:
    """Whose list a cascade re-ranks, and how; fitted on lists of its CRM.

    Args:
        length: Items of a list that are re-ranked.
        budget: Share of lists that may be.
        blend: Orders a list that is.
        value: NDCG that re-ranking a list is expected to gain.
        threshold: Value above which a list is re-ranked; None where every list is.
        verdict: What validation showed.
    """

    length: Positive
    budget: Share
    blend: ListBlend
    value: ListValue
    threshold: Weight | None
    verdict: Verdict

    def above(self, value: Floats) -> NDArray[np.bool_]:
        """``(lists,)`` whether each list's value is above the threshold."""
        if self.threshold is None:
            return np.ones(len(value), dtype=bool)
        return value > self.threshold


@dataclass(frozen=True)
class ListRouter:
    """Whose list is re-ranked, and how.

    Args:
        blend: Orders a list that is re-ranked.
        value: Of re-ranking a list.
        thresholds: By budget, the value above which a list is asked about.
        verdicts: By budget, whether validation showed a gain; ``gain`` and ``bound`` are in NDCG
            for each list asked about.
    """

    blend: ListBlend
    value: ListValue
    thresholds: dict[float, float]
    verdicts: dict[float, Verdict]

    def chosen(self, facts: Floats, budget: float) -> NDArray[np.bool_]:
        """``(lists,)`` those above the threshold; the most valuable if they exceed the budget.

        Args:
            facts: ``(lists, 7)``.
            budget: Share of lists, a key of ``thresholds``.
        """
        value = self.value(facts)
        most = np.argsort(-value, kind="stable")[: int(budget * len(value) + 1e-9)]
        found = np.zeros(len(value), dtype=bool)
        found[most] = value[most] > self.thresholds[budget]
        return found

    def policy(self, budget: float, length: int) -> ListPolicy | None:
        """What a cascade keeps of it; None where validation shows no gain.

        Args:
            budget: Share of lists, a key of ``thresholds``.
            length: Of the lists that it was fitted on.
        """
        threshold, verdict = self.thresholds[budget], self.verdicts[budget]
        if not verdict.helps:
            return None
        above = float(threshold) if np.isfinite(threshold) else None
        return ListPolicy(length, budget, self.blend, self.value, above, verdict)


def fit_lists(lists: ListScores, budgets: Sequence[float], k: int, seed: int) -> ListRouter:
    """Fit blend, values and thresholds on validation lists, and judge each budget.

    The judgement is cross-fitted over users: which lists are asked about, and how they are ordered,
    is decided by what was fitted on other users. Unless the NDCG gained on the lists asked about
    exceeds zero with 95 % confidence (one-sided, users resampled), none should be.

    Args:
        lists: Of validation, one for each user; at least ten.
        budgets: Shares of lists, 0 to 1; 1 asks about every list, whatever its value.
        k: Places that count.
        seed: Of folds and resamples.
    """
    asked = {budget: np.zeros(len(lists.hit), dtype=bool) for budget in budgets}
    gained = np.zeros(len(lists.hit))
    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    for fit, held in folds.split(lists.facts):
        blend, value = _fit(lists[fit], k)
        gained[held] = _gain(lists[held], blend, k)
        past, values = value(lists.facts[fit]), value(lists.facts[held])
        for budget in budgets:
            asked[budget][held] = values > _threshold(past, budget)
    blend, value = _fit(lists, k)
    values = value(lists.facts)
    return ListRouter(
        blend,
        value,
        {budget: _threshold(values, budget) for budget in budgets},
        {budget: _judge(gained[mask], seed) for budget, mask in asked.items()},
    )


def fit_blend(lists: ListScores) -> ListBlend:
    """The weights with the highest likelihood of each relevant item among its list's.

    The probability of an item is the softmax of the weighted sum over its list, so that what a
    model says of a user as a whole has no part in it.
    """
    there = np.isfinite(lists.base)
    some = lists.hit.any(1) & (there.sum(1) > lists.hit.sum(1))
    if not some.any():
        return ListBlend(1.0, 0.0)
    base, expert = (column[some] for column in _finite(lists.base, lists.expert))
    scale = np.array([max(float(column.std()), 1e-9) for column in (base, expert)])
    hit, there = lists.hit[some], there[some]

    def objective(weights: Floats) -> tuple[float, Floats]:
        a, b = weights / scale
        share = softmax(np.where(there, a * base + b * expert, -np.inf), axis=1)
        loss = -np.log(np.maximum(share[hit], 1e-300)).sum() + PENALTY * weights @ weights
        residual = hit.sum(1, keepdims=True) * share - hit
        gradient = np.array([(residual * base).sum(), (residual * expert).sum()]) / scale
        return float(loss), gradient + 2 * PENALTY * weights

    start = np.array([1.0, 0.0])
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=[(0, None), (0, None)])
    a, b = found.x / scale
    return ListBlend(float(a), float(b)) if a + b > 0 else ListBlend(1.0, 0.0)


def _finite(base: Floats, expert: Floats) -> tuple[Floats, Floats]:
    """Both scores, with 0 where a list has ended."""
    there = np.isfinite(base)
    return np.where(there, base, 0.0), np.where(there, bounded(expert), 0.0)


def _fit(lists: ListScores, k: int) -> tuple[ListBlend, ListValue]:
    blend = fit_blend(lists)
    mean, deviation = lists.facts.mean(0), lists.facts.std(0).clip(min=1e-9)
    ridge = RidgeCV(PENALTIES).fit((lists.facts - mean) / deviation, _gain(lists, blend, k))
    weights = ridge.coef_ / deviation
    bias = float(ridge.intercept_ - weights @ mean)
    columns = weights, lists.facts.min(0), lists.facts.max(0)
    weights, low, high = (tuple(column.tolist()) for column in columns)
    return blend, ListValue(weights, bias, low, high)


def _gain(lists: ListScores, blend: ListBlend, k: int) -> Floats:
    """``(lists,)`` NDCG that the blend gains."""
    return lists.ndcg(blend(lists.base, lists.expert), k) - lists.ndcg(lists.base, k)


def _threshold(values: Floats, budget: float) -> float:
    if budget >= 1:
        return -np.inf
    return max(0.0, float(np.quantile(values, 1 - budget)))  # a list that gains nothing is not


def _judge(gain: Floats, seed: int) -> Verdict:
    if len(gain) < MIN_LISTS:
        return Verdict(helps=False, routed=len(gain), gain=0.0, bound=0.0)
    means = Bootstrap(np.arange(len(gain)), RESAMPLES, seed).mean(gain)
    bound = float(np.quantile(means, 1 - CONFIDENCE))
    return Verdict(bound > MIN_GAIN, len(gain), float(gain.mean()), bound)
