"""Quality against the share of rows that the language model answers, and what that costs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corellarec.base.metrics import METRICS, Floats, losses
from corellarec.evaluation.figures import Figures

BUDGETS = np.linspace(0, 1, 21)
JUDGED = (0.05, 0.1, 0.2, 0.3)  # budgets at which policies are compared
PERMUTATIONS = 5  # random orders whose mean is the random policy


def routed(value: Floats, budget: float, alone: Floats, answer: Floats) -> Floats:
    """Probabilities where the share ``budget`` of highest value gets the answer."""
    chosen = np.argsort(-value, kind="stable")[: round(budget * len(value))]
    p = alone.copy()
    p[chosen] = answer[chosen]
    return p


def curves(
    figures: Figures, values: Mapping[str, Floats], alone: Floats, answer: Floats
) -> dict[str, Any]:
    """AUC and log loss at every budget for each policy, a random order and an oracle.

    The oracle knows the labels and asks where the answer helps most: a bound, not a policy. The
    area is the mean over budgets of what a policy is ahead of the random order.

    Args:
        figures: Of all rows.
        values: ``(n,)`` value of asking, by policy.
        alone: ``(n,)`` the CRM's probabilities.
        answer: ``(n,)`` what a routed row gets.
    """
    generator = np.random.default_rng(0)
    gain = losses(figures.label, alone) - losses(figures.label, answer)
    orders = {name: [value] for name, value in values.items()}
    orders["random"] = [generator.random(len(alone)) for _ in range(PERMUTATIONS)]
    orders["oracle"] = [gain]
    found: dict[str, Any] = {"budget": BUDGETS.tolist(), "policies": {}}
    for name, all_values in orders.items():
        found["policies"][name] = {
            metric: [
                float(
                    np.mean(
                        [
                            METRICS[metric](figures.label, routed(value, budget, alone, answer))
                            for value in all_values
                        ]
                    )
                )
                for budget in BUDGETS
            ]
            for metric in ("auc", "log_loss")
        }
    random = found["policies"]["random"]
    for policy in found["policies"].values():
        policy["area"] = {
            metric: float(np.trapezoid(np.array(policy[metric]) - random[metric], BUDGETS))
            for metric in ("auc", "log_loss")
        }
    return found


def at_budgets(
    figures: Figures,
    values: Sequence[Mapping[str, Floats]],
    alone: Sequence[Floats],
    answer: Sequence[Floats],
) -> list[dict[str, Any]]:
    """Policies at the same budgets, exactly that share asked, with paired differences.

    Every argument has one entry for each seed.
    """
    found = []
    for budget in JUDGED:
        p = {
            policy: [
                routed(value[policy], budget, one, given)
                for value, one, given in zip(values, alone, answer, strict=True)
            ]
            for policy in ("entropy", "gain")
        }
        row: dict[str, Any] = {"budget": budget}
        for metric in ("auc", "log_loss"):
            row[metric] = {
                policy: figures.figure(metric, answers)["value"] for policy, answers in p.items()
            }
            row[metric]["gain_over_entropy"] = figures.figure(metric, p["gain"], p["entropy"])
            row[metric]["gain_over_crm"] = figures.figure(metric, p["gain"], alone)
        found.append(row)
    return found
