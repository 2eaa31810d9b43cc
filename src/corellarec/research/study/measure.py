"""Everything a study measures, from what its cells score."""

from collections.abc import Sequence

import numpy as np

from corellarec.base.bootstrap import Bootstrap
from corellarec.evaluation.answers import PREDICTORS
from corellarec.evaluation.boundary import boundary
from corellarec.evaluation.curves import routed
from corellarec.evaluation.evaluate import (
    cost_of_rows,
    equal_budgets,
    named_predictors,
    policy_curves,
    reliability,
)
from corellarec.evaluation.figures import COMPARED_METRICS, Figures, Predictor, predictor_rows
from corellarec.evaluation.grids import KINDS
from corellarec.evaluation.parts import AblationRow, BesideRow, Costs, NoHarm, Segment
from corellarec.evaluation.results import StudyResult
from corellarec.evaluation.segments import by_confidence, cuts, segments
from corellarec.research.study.answers import Alone, CellScores, StudyScores
from corellarec.research.study.spec import StudySpec

BUDGET = 0.1  # at which CRMs with an LLM beside them are compared
WAYS = ("llm_calibrated", "paper", "blend_entropy", "cascade", "blend_all")


def measure(name: str, spec: StudySpec, scores: StudyScores) -> StudyResult:
    """The figures of a study; sections whose cells it does not have are empty.

    Args:
        name: Of the study.
        spec: What was run.
        scores: What the cells score.
    """
    first = scores.first
    evaluation = first.config.evaluate
    figures = Figures(
        first.test.label, first.test.user, Bootstrap(first.test.user, evaluation.bootstrap, 0)
    )
    predictors, validation_loss = _predictors(scores)
    reference = min(validation_loss, key=lambda key: validation_loss[key])
    thresholds = [row for one in scores.methods for row in one.answers.thresholds(one.config.seed)]
    return StudyResult(
        name=name,
        rows=len(figures.label),
        users=figures.users,
        positives=int(figures.label.sum()),
        reference=reference,
        router=first.answers.summary(),
        table=predictor_rows(figures, predictors, reference),
        segments=_segments(figures, scores, evaluation.groups),
        curves=policy_curves(figures, first.answers, seed=0),
        budgets=equal_budgets(figures, [one.answers for one in scores.methods]),
        thresholds=tuple(thresholds),
        reliability=reliability(figures.label, first.answers),
        costs=_costs(scores.methods, scores.crms[scores.own]),
        spec=spec.model_dump(mode="json"),
        seeds=spec.seeds,
        validation_log_loss=validation_loss,
        beside=_beside(figures, scores),
        no_harm=_no_harm(figures, scores),
        ablation=_ablation(figures, scores),
        cells=(),
    )


# The main table.


def _predictors(scores: StudyScores) -> tuple[list[Predictor], dict[str, float]]:
    """All rows of the main table, and the validation log loss of those without an LLM."""
    predictors, validation_loss = [], {}
    for number, (name, p) in enumerate(scores.yardsticks.items()):
        predictors.append(Predictor("yardstick", f"yardstick/{number}", name, [p], 0.0))
    for name, of_seeds in scores.crms.items():
        key = "crm_calibrated" if name == scores.own else f"crm/{name}"
        p, ms = [one.p for one in of_seeds], float(np.mean([one.ms for one in of_seeds]))
        predictors.append(Predictor("crm", key, name, p, 0.0, ms))
        validation_loss[key] = float(np.mean([one.validation_loss for one in of_seeds]))
    for one in scores.baselines:
        key = f"baseline/{one.name}"
        predictors.append(Predictor("baseline", key, one.name, [one.p], one.llm_share, one.ms))
        if np.isfinite(one.p).all():
            validation_loss[key] = one.validation_loss
    crm = scores.crms[scores.own]
    predictors += _of_method(scores.methods, crm)
    predictors += _control(scores)
    for name, of_seeds in scores.llms.items():
        predictors += _of_method(of_seeds, crm, f"/{name}", f", {name}")
    for of_seeds in scores.distilled.values():
        p = [one.p("crm_calibrated") for one in of_seeds]
        key, name = "crm_calibrated/distilled", f"{scores.own}, taught by the LLM"
        predictors.append(Predictor("crm", key, name, p, 0.0))
        of_method = _of_method(of_seeds, crm, "/distilled", ", CRM taught by the LLM")
        predictors += [one for one in of_method if not one.key.startswith(("llm", "paper"))]
    order = list(KINDS)
    return sorted(predictors, key=lambda one: order.index(one.kind)), validation_loss


def _of_method(
    of_seeds: Sequence[CellScores], crm: Sequence[Alone], variant: str = "", words: str = ""
) -> list[Predictor]:
    """The ways to use both models of a run, one run for each seed."""
    cascade, costs = of_seeds[0].config.cascade, _costs(of_seeds, crm)
    is_twice = (cascade.policy, cascade.combine) == ("entropy", "blend")
    predictors = []
    for key in WAYS:
        if key == "blend_entropy" and is_twice:
            continue
        kind, name = PREDICTORS[key]
        if key == "cascade":
            name = f"{name} ({cascade.policy}, {cascade.combine})"
        share = float(np.mean([one.answers.share(key) for one in of_seeds]))
        cost = cost_of_rows(costs, share, with_crm=kind != "llm")
        p = [one.p(key) for one in of_seeds]
        predictors.append(Predictor(kind, key + variant, name + words, p, share, *cost))
    return predictors


def _costs(of_seeds: Sequence[CellScores], crm: Sequence[Alone]) -> Costs:
    """Means over seeds."""
    return Costs(
        crm_ms=float(np.mean([one.ms for one in crm])) / 1e3,
        llm_ms=float(np.mean([one.llm_ms for one in of_seeds])),
        llm_tokens=float(np.mean([one.llm_tokens for one in of_seeds])),
        layout_tokens={},
    )


def _control(scores: StudyScores) -> list[Predictor]:
    """The CRM that is best on validation, the method's own apart, in the LLM's place."""
    loss = {
        name: np.mean([one.validation_loss for one in of_seeds])
        for name, of_seeds in scores.crms.items()
        if name != scores.own
    }
    if not loss:
        return []
    second = min(loss, key=lambda name: loss[name])
    control = [
        one.with_second_crm(crm)
        for one, crm in zip(scores.methods, scores.crms[second], strict=True)
    ]
    return [
        Predictor(
            "control",
            f"control/{key}",
            f"{second} in the LLM's place, {words}",
            [one.p(key) for one in control],
            float(np.mean([one.answers.share(key) for one in control])),
        )
        for key, words in (("blend_gain", "gain"), ("blend_all", "every row"))
    ]


# The other sections.


def _beside(figures: Figures, scores: StudyScores) -> tuple[BesideRow, ...]:
    """The method's LLM beside every CRM, each with a router of its own."""
    rows = []
    for name, of_seeds in scores.crms.items():
        both = [one.beside(crm) for one, crm in zip(scores.methods, of_seeds, strict=True)]
        crm = [one.p("crm_calibrated") for one in both]
        every_row = [one.p("blend_all") for one in both]
        budget = [
            routed(one.answers.values()["gain"], BUDGET, alone, answer)
            for one, alone, answer in zip(both, crm, every_row, strict=True)
        ]
        rows.append(
            BesideRow(
                name=name,
                llm_share=float(np.mean([one.answers.share("cascade") for one in both])),
                crm={metric: figures.figure(metric, crm) for metric in COMPARED_METRICS},
                cascade=figures.compared([one.p("cascade") for one in both], crm),
                budget=figures.compared(budget, crm),
                every_row=figures.compared(every_row, crm),
            )
        )
    return tuple(rows)


def _no_harm(figures: Figures, scores: StudyScores) -> tuple[NoHarm, ...]:
    """The deployed cascade against its own calibrated CRM, for every way to train it."""
    runs = {"deployed cascade": scores.methods}
    runs |= {f"deployed cascade, {name}": of_seeds for name, of_seeds in scores.llms.items()}
    for of_seeds in scores.distilled.values():
        runs["deployed cascade, CRM taught by the LLM"] = of_seeds
    rows = []
    for name, of_seeds in runs.items():
        crm = [one.p("crm_calibrated") for one in of_seeds]
        gap = figures.figure("log_loss", [one.p("cascade") for one in of_seeds], crm)
        rows.append(NoHarm(name, gap, gap.low > 0))
    return tuple(rows)


def _segments(figures: Figures, scores: StudyScores, groups: int) -> tuple[Segment, ...]:
    """The models of the first seed in groups of rows."""
    named = named_predictors(scores.first.answers)
    cascade = named.pop("cascade")
    for name, of_seeds in scores.llms.items():
        named[f"LLM, {name}"] = of_seeds[0].p("llm_calibrated")
    named["cascade"] = cascade
    ways = cuts(scores.first.log, scores.first.rows, groups)
    return (by_confidence(figures, named, groups), *segments(figures, ways, named))


def _ablation(figures: Figures, scores: StudyScores) -> tuple[AblationRow, ...]:
    """Each variant beside the full method of the first seed, itself the first entry."""
    if not scores.ablation:
        return ()
    variants = {"the full method": scores.first}
    variants |= {name: of_seeds[0] for name, of_seeds in scores.ablation.items()}
    return tuple(_variant(figures, name, one, scores.first) for name, one in variants.items())


def _variant(figures: Figures, name: str, one: CellScores, full: CellScores) -> AblationRow:
    keys = ("crm_calibrated", "llm_calibrated", "cascade", "blend_all")
    return AblationRow(
        name=name,
        llm_share=one.answers.share("cascade"),
        predictors={key: figures.compared([one.p(key)], [full.p(key)]) for key in keys},
        boundary=boundary(figures.label, one.p("crm"), one.p("llm"), figures.user),
    )
