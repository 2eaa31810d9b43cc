"""Quality against the share of rows that the LLM answers."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from corellarec.base.metrics import METRICS, Floats, losses
from corellarec.cascade.policy import Policy
from corellarec.evaluation.figures import COMPARED_METRICS, Figures
from corellarec.evaluation.parts import BudgetPoint, Curves, PolicyCurve

BUDGETS = np.linspace(0, 1, 21)
EQUAL_BUDGETS = (0.05, 0.1, 0.2, 0.3)  # at which policies are compared
PERMUTATIONS = 5  # random orders whose mean is the random policy


def routed(value: Floats, budget: float, alone: Floats, answer: Floats) -> Floats:
    """Probabilities where exactly the share ``budget`` of highest value gets the answer."""
    return _first_routed(_order(value), budget, alone, answer)


def _order(value: Floats) -> NDArray[np.int64]:
    return np.argsort(-value, kind="stable")


def _first_routed(order: NDArray[np.int64], budget: float, alone: Floats, answer: Floats) -> Floats:
    chosen = order[: round(budget * len(order))]
    p = alone.copy()
    p[chosen] = answer[chosen]
    return p


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

    def quality(values: Sequence[Floats]) -> dict[str, list[float]]:
        found = np.zeros((len(COMPARED_METRICS), len(BUDGETS)))
        for order in map(_order, values):
            for place, budget in enumerate(BUDGETS):
                p = _first_routed(order, budget, alone, answer)
                found[:, place] += [METRICS[m](figures.label, p) for m in COMPARED_METRICS]
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
