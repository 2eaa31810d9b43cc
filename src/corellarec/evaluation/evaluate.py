"""The evaluation of a router on test rows: every figure, from scores and labels alone."""

from collections.abc import Mapping, Sequence

import numpy as np

from corellarec.base.bootstrap import Bootstrap
from corellarec.base.metrics import Floats, Labels
from corellarec.cascade.router import Router
from corellarec.cascade.scores import Scores
from corellarec.evaluation.answers import PREDICTORS, Answers
from corellarec.evaluation.curves import at_budgets, curves
from corellarec.evaluation.figures import Figures, Predictor, predictor_rows
from corellarec.evaluation.parts import BudgetPoint, Costs, Curves, ReliabilityBin
from corellarec.evaluation.results import Evaluation
from corellarec.evaluation.segments import Cut, by_confidence, segments

RELIABILITY_BINS = 10
REFERENCE = "crm_calibrated"


def evaluate_scores(
    scores: Scores,
    router: Router,
    *,
    bootstrap: int,
    groups: int,
    seed: int,
    name: str = "cascade",
    costs: Costs | None = None,
    ways: Mapping[str, Cut] | None = None,
    networks: Mapping[str, Floats] | None = None,
) -> Evaluation:
    """Measure every way to use both models on test rows, against the calibrated CRM.

    Args:
        scores: The test rows.
        router: The router, fitted on validation data.
        bootstrap: Resamples of users behind each interval.
        groups: Groups of equal size by CRM confidence.
        seed: Seed of the resamples and of the random policy.
        name: Of what is measured.
        costs: Of both models, for the table's costs.
        ways: Further ways to group the rows, such as those of
            :func:`~corellarec.evaluation.segments.cuts`.
        networks: ``(n,)`` calibrated probabilities of each network of the CRM, if it is several.
    """
    answers = Answers(scores, router)
    figures = Figures(scores.label, scores.user, Bootstrap(scores.user, bootstrap, seed))
    predictors = [
        Predictor(
            kind,
            key,
            title,
            [answers.predictions[key]],
            answers.share(key),
            *cost_of_rows(costs, answers.share(key), with_crm=kind != "llm"),
        )
        for key, (kind, title) in PREDICTORS.items()
    ]
    predictors += [
        Predictor("crm", f"crm/{name}", f"{name} alone", [p], 0.0)
        for name, p in (networks or {}).items()
    ]
    named = named_predictors(answers)
    return Evaluation(
        name=name,
        rows=len(scores.label),
        users=figures.users,
        positives=int(scores.label.sum()),
        reference=REFERENCE,
        router=answers.summary(),
        table=predictor_rows(figures, predictors, REFERENCE),
        segments=(by_confidence(figures, named, groups), *segments(figures, ways or {}, named)),
        curves=policy_curves(figures, answers, seed),
        budgets=equal_budgets(figures, [answers]),
        thresholds=tuple(answers.thresholds(seed)),
        reliability=reliability(scores.label, answers),
        costs=costs,
    )


def named_predictors(answers: Answers) -> dict[str, Floats]:
    """``(n,)`` probabilities of the predictors that are compared in groups of rows."""
    keys = {"CRM": "crm_calibrated", "LLM": "llm_calibrated", "cascade": "cascade"}
    return {name: answers.predictions[key] for name, key in keys.items()}


def cost_of_rows(
    costs: Costs | None, llm_share: float, *, with_crm: bool
) -> tuple[float | None, float | None]:
    """Milliseconds and tokens for 1,000 rows of which a share goes to the LLM."""
    if costs is None:
        return None, None
    tokens = 1e3 * llm_share * costs.llm_tokens
    if with_crm and costs.crm_ms is None:
        return None, tokens
    crm_ms = (costs.crm_ms or 0.0) if with_crm else 0.0
    return 1e3 * (llm_share * costs.llm_ms + crm_ms), tokens


def policy_curves(figures: Figures, answers: Answers, seed: int) -> Curves:
    """Quality against budget, a routed row getting what the router is set to give."""
    return curves(
        figures,
        answers.values(),
        answers.alone,
        answers.routed_answer,
        configured=answers.router.budget,
        seed=seed,
    )


def equal_budgets(figures: Figures, runs: Sequence[Answers]) -> tuple[BudgetPoint, ...]:
    """The policies at equal budgets; ``runs`` has one entry for each seed."""
    return at_budgets(
        figures,
        [one.values() for one in runs],
        [one.alone for one in runs],
        [one.routed_answer for one in runs],
    )


def reliability(label: Labels, answers: Answers) -> dict[str, tuple[ReliabilityBin, ...]]:
    """Mean prediction and rate of positives in bins with equally many rows.

    CRM and LLM are raw, as trained.
    """
    return {key: _bins(label, answers.predictions[key]) for key in ("crm", "llm", "cascade")}


def _bins(label: Labels, p: Floats) -> tuple[ReliabilityBin, ...]:
    parts = np.array_split(np.argsort(p, kind="stable"), RELIABILITY_BINS)
    return tuple(
        ReliabilityBin(float(p[rows].mean()), float(label[rows].mean()), len(rows))
        for rows in parts
        if len(rows)
    )
