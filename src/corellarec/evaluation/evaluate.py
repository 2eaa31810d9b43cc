"""The final evaluation: every figure of the report, from scores and labels alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corellarec.base.bootstrap import Bootstrap, interval
from corellarec.base.metrics import METRICS, Floats, Labels, entropy, losses, sigmoid
from corellarec.cascade.policy import Known
from corellarec.cascade.router import Router

BUDGETS = np.linspace(0, 1, 21)
RELIABILITY_BINS = 10
BASELINE = "crm_calibrated"


@dataclass(frozen=True)
class Scores:
    """Rows that both models scored.

    Args:
        user: ``(n,)`` user numbers.
        label: ``(n,)`` of 0 and 1.
        known: What is known before asking, the CRM's raw logits among it.
        llm_logit: ``(n,)`` the language model's raw logits.
    """

    user: NDArray[np.int64]
    label: Labels
    known: Known
    llm_logit: Floats

    @property
    def crm_logit(self) -> Floats:
        """``(n,)`` the CRM's raw logits."""
        return self.known.crm_logit


def evaluate(
    scores: Scores, router: Router, *, bootstrap: int, groups: int, seed: int
) -> dict[str, Any]:
    """All quality figures of a run on its test rows.

    Args:
        scores: The test rows.
        router: The decision, fitted on validation data.
        bootstrap: Resamples of users behind each interval.
        groups: Groups of equal size by CRM confidence.
        seed: Seed of the resamples and of the random policy.
    """
    bootstrapped = Bootstrap(scores.user, bootstrap, seed)
    answers = predictions(scores, router)
    asked = {
        "crm": 0.0,
        "crm_calibrated": 0.0,
        "llm": 1.0,
        "llm_calibrated": 1.0,
        "paper": float(_top_entropy(scores, router).mean()),
        "replace": float(router.routed(scores.known, "entropy").mean()),
        "blend_entropy": float(router.routed(scores.known, "entropy").mean()),
        "blend_gain": float(router.routed(scores.known, "gain").mean()),
        "blend_all": 1.0,
        "cascade": float(router.routed(scores.known).mean()),
    }
    return {
        "rows": len(scores.label),
        "users": len(np.unique(scores.user)),
        "positives": int(scores.label.sum()),
        "table": _table(scores.label, answers, asked, bootstrapped),
        "groups": _groups(scores, router, answers, groups, bootstrapped),
        "curve": _curve(scores, router, answers, seed),
        "reliability": {
            name: _reliability(scores.label, answers[name]) for name in ("crm", "llm", "cascade")
        },
    }


def _top_entropy(scores: Scores, router: Router) -> NDArray[np.bool_]:
    """The paper's rule: the share ``budget`` of rows with the highest entropy of the raw CRM."""
    uncertainty = entropy(sigmoid(scores.crm_logit))
    return uncertainty > np.quantile(uncertainty, 1 - router.budget)


def predictions(scores: Scores, router: Router) -> dict[str, Floats]:
    """``(n,)`` probabilities under every way to use both models."""
    crm, llm = sigmoid(scores.crm_logit), sigmoid(scores.llm_logit)
    crm_calibrated = sigmoid(router.crm(scores.crm_logit))
    llm_calibrated = sigmoid(router.llm(scores.llm_logit))
    blend = sigmoid(router.blend(scores.known, scores.llm_logit))
    entropy_asks = router.routed(scores.known, "entropy")
    gain_asks = router.routed(scores.known, "gain")
    asks = router.routed(scores.known)
    answer = router.answer(scores.known, scores.llm_logit)
    return {
        "crm": crm,
        "crm_calibrated": crm_calibrated,
        "llm": llm,
        "llm_calibrated": llm_calibrated,
        "paper": np.where(_top_entropy(scores, router), llm, crm),
        "replace": np.where(entropy_asks, llm_calibrated, crm_calibrated),
        "blend_entropy": np.where(entropy_asks, blend, crm_calibrated),
        "blend_gain": np.where(gain_asks, blend, crm_calibrated),
        "blend_all": blend,
        "cascade": np.where(asks, answer, crm_calibrated),
    }


def _table(
    label: Labels,
    predictions: dict[str, Floats],
    asked: dict[str, float],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Each predictor's metrics with intervals, and its paired difference from the CRM's."""
    resampled = {
        name: {metric: bootstrap(metric, label, p) for metric in METRICS}
        for name, p in predictions.items()
    }
    table = {}
    for name, p in predictions.items():
        row: dict[str, Any] = {"asked_share": asked[name]}
        for metric, function in METRICS.items():
            low, high = interval(resampled[name][metric])
            row[metric] = {"value": function(label, p), "low": low, "high": high}
            difference = resampled[name][metric] - resampled[BASELINE][metric]
            low, high = interval(difference)
            value = function(label, p) - function(label, predictions[BASELINE])
            row[f"{metric}_over_crm"] = {"value": value, "low": low, "high": high}
        table[name] = row
    return table


def _groups(
    scores: Scores,
    router: Router,
    predictions: dict[str, Floats],
    count: int,
    bootstrap: Bootstrap,
) -> list[dict[str, Any]]:
    """Groups of equal size by CRM confidence, least confident first (the paper's Figure 1)."""
    order = np.argsort(-router.value(scores.known, "entropy"), kind="stable")
    found = []
    for number, rows in enumerate(np.array_split(order, count)):
        inside = np.zeros(len(order), dtype=bool)
        inside[rows] = True
        part: dict[str, Any] = {"group": number + 1, "rows": len(rows)}
        for name in ("crm_calibrated", "llm_calibrated", "cascade", "blend_all"):
            part[name] = {
                metric: function(scores.label[rows], predictions[name][rows])
                for metric, function in METRICS.items()
            }
        part["llm_over_crm"] = {
            metric: _difference(scores, predictions, metric, inside, bootstrap)
            for metric in ("auc", "log_loss")
        }
        found.append(part)
    return found


def _difference(
    scores: Scores,
    predictions: dict[str, Floats],
    metric: str,
    inside: NDArray[np.bool_],
    bootstrap: Bootstrap,
) -> dict[str, float]:
    """LLM minus CRM on the rows ``inside``, with its 95 % interval."""
    label, part = scores.label[inside], bootstrap.of(inside)
    llm = predictions["llm_calibrated"][inside]
    crm = predictions["crm_calibrated"][inside]
    low, high = interval(part(metric, label, llm) - part(metric, label, crm))
    value = METRICS[metric](label, llm) - METRICS[metric](label, crm)
    return {"value": value, "low": low, "high": high}


def _curve(
    scores: Scores, router: Router, predictions: dict[str, Floats], seed: int
) -> dict[str, Any]:
    """Quality against the share of rows asked about, for four orders of asking.

    ``oracle`` knows the labels and asks where the answer helps most: a bound, not a policy.
    """
    alone = predictions["crm_calibrated"]
    answer = (
        predictions["blend_all"] if router.combine == "blend" else predictions["llm_calibrated"]
    )
    n = len(alone)
    gain = losses(scores.label, alone) - losses(scores.label, answer)
    orders = {
        "entropy": np.argsort(-router.value(scores.known, "entropy"), kind="stable"),
        "gain": np.argsort(-router.value(scores.known, "gain"), kind="stable"),
        "random": np.random.default_rng(seed).permutation(n),
        "oracle": np.argsort(-gain, kind="stable"),
    }
    curve: dict[str, Any] = {"budget": BUDGETS.tolist(), "combine": router.combine}
    for name, order in orders.items():
        points = {"auc": [], "log_loss": []}
        for budget in BUDGETS:
            p = alone.copy()
            chosen = order[: round(budget * n)]
            p[chosen] = answer[chosen]
            for metric, values in points.items():
                values.append(METRICS[metric](scores.label, p))
        curve[name] = points
    return curve


def _reliability(label: Labels, p: Floats) -> list[dict[str, float]]:
    """Mean prediction and rate of positives in bins with equally many rows."""
    parts = np.array_split(np.argsort(p, kind="stable"), RELIABILITY_BINS)
    return [
        {"p": float(p[rows].mean()), "rate": float(label[rows].mean()), "rows": len(rows)}
        for rows in parts
        if len(rows)
    ]
