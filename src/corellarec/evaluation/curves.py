"""Quality against the share of rows that the LLM answers."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from corellarec.base.metrics import Floats, Labels, losses
from corellarec.cascade.policy import Policy
from corellarec.evaluation.figures import COMPARED_METRICS, Figures
from corellarec.evaluation.parts import BudgetPoint, Curves, PolicyCurve

BUDGETS = np.linspace(0, 1, 21)
EQUAL_BUDGETS = (0.05, 0.1, 0.2, 0.3)  # at which policies are compared
PERMUTATIONS = 5  # random orders whose mean is the random policy


def routed(value: Floats, budget: float, alone: Floats, answer: Floats) -> Floats:
    """Probabilities where exactly the share ``budget`` of highest value gets the answer."""
    chosen = _order(value)[: round(budget * len(value))]
    p = alone.copy()
    p[chosen] = answer[chosen]
    return p


def _order(value: Floats) -> NDArray[np.int64]:
    return np.argsort(-value, kind="stable")


def curves(
    figures: Figures,
    values: Mapping[Policy, Floats],
    alone: Floats,
    answer: Floats,
    *,
    configured: float,
    seed: int,
) -> Curves:
    """AUC and log loss at every budget for each policy, a random order and an oracle.

    The oracle knows the labels and routes where the answer helps most: a bound, not a policy.

    Args:
        figures: Of all rows.
        values: ``(n,)`` value of routing, by policy.
        alone: ``(n,)`` the CRM's probabilities.
        answer: ``(n,)`` what a routed row gets.
        configured: The router's budget.
        seed: Of the random orders.
    """
    generator = np.random.default_rng(seed)
    orders = {name: [value] for name, value in values.items()}
    orders["random"] = [generator.random(len(alone)) for _ in range(PERMUTATIONS)]
    orders["oracle"] = [losses(figures.label, alone) - losses(figures.label, answer)]

    mixture = _Mixture(figures.label, alone, answer)

    def quality(values: Sequence[Floats]) -> dict[str, list[float]]:
        found = np.zeros((len(COMPARED_METRICS), len(BUDGETS)))
        for order in map(_order, values):
            for place, budget in enumerate(BUDGETS):
                chosen = order[: round(budget * len(order))]
                found[:, place] += [mixture.auc(chosen), mixture.log_loss(chosen)]
        return dict(zip(COMPARED_METRICS, (found / len(values)).tolist(), strict=True))

    lines = {name: quality(of_order) for name, of_order in orders.items()}

    def area(metric: str, line: list[float]) -> float:
        return float(np.trapezoid(np.array(line) - lines["random"][metric], BUDGETS))

    policies = {
        name: PolicyCurve(
            auc=tuple(line["auc"]),
            log_loss=tuple(line["log_loss"]),
            area={metric: area(metric, line[metric]) for metric in COMPARED_METRICS},
        )
        for name, line in lines.items()
    }
    return Curves(tuple(BUDGETS.tolist()), configured, policies)


class _Mixture:
    """Quality of two predictors mixed row by row; their scores are sorted once for all mixtures.

    Args:
        label: ``(n,)`` labels.
        alone, answer: ``(n,)`` probabilities.
    """

    def __init__(self, label: Labels, alone: Floats, answer: Floats) -> None:
        self._positive = label == 1
        ranks = np.unique(np.concatenate([alone, answer]), return_inverse=True)[1]
        self._alone, self._answer = np.split(ranks, 2)
        self._losses = losses(label, alone), losses(label, answer)

    def auc(self, chosen: NDArray[np.int64]) -> float:
        """Area under the ROC curve where the rows ``chosen`` get the answer; NaN without both."""
        rank = self._alone.copy()
        rank[chosen] = self._answer[chosen]
        positives = np.bincount(rank[self._positive], minlength=1)
        negatives = np.bincount(rank[~self._positive], minlength=len(positives))
        below = (negatives.cumsum() - negatives / 2)[: len(positives)]
        pairs = positives.sum() * negatives.sum()
        return float(positives @ below / pairs) if pairs else float("nan")

    def log_loss(self, chosen: NDArray[np.int64]) -> float:
        """Mean binary cross-entropy in nats, likewise."""
        loss, answered = self._losses[0].copy(), self._losses[1]
        loss[chosen] = answered[chosen]
        return float(loss.mean())


def at_budgets(
    figures: Figures,
    values: Sequence[Mapping[Policy, Floats]],
    alone: Sequence[Floats],
    answer: Sequence[Floats],
) -> tuple[BudgetPoint, ...]:
    """The policies at the same budgets, exactly that share routed, with paired differences.

    Every argument but the first has one entry for each seed.
    """
    points = []
    for budget in EQUAL_BUDGETS:
        entropy, gain = (
            [
                routed(value[policy], budget, one, given)
                for value, one, given in zip(values, alone, answer, strict=True)
            ]
            for policy in ("entropy", "gain")
        )
        by_gain, by_gain_alone = figures.compared(gain, entropy), figures.compared(gain, alone)
        points.append(
            BudgetPoint(
                budget=budget,
                entropy={name: figures.figure(name, entropy) for name in COMPARED_METRICS},
                gain=by_gain.metrics,
                gain_over_entropy=by_gain.over_reference,
                gain_over_crm=by_gain_alone.over_reference,
            )
        )
    return tuple(points)
