"""The sections of a report: those that a result has figures for, in the order they are read."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from corellarec.evaluation import grids, plots
from corellarec.evaluation.findings import findings
from corellarec.evaluation.grids import Grid
from corellarec.evaluation.results import Evaluation, StudyResult
from corellarec.evaluation.segments import FEW_ROWS, FEW_USERS
from corellarec.evaluation.text import count, rows_in_words


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        title: In words.
        note: What must be known to read it.
        sentences: A list.
        figures: Each makes an SVG, empty where there is nothing to show; side by side where the
            page is wide enough, else below each other.
        grids: Tables.
        details: Tables that are folded in the page.
        texts: Preformatted, by name; folded in the page.
    """

    title: str
    note: str = ""
    sentences: tuple[str, ...] = ()
    figures: tuple[Callable[[], str], ...] = ()
    grids: tuple[Grid, ...] = ()
    details: tuple[Grid, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()


def heading(result: Evaluation) -> str:
    """The title of the page."""
    return "When does the LLM pay?" if isinstance(result, StudyResult) else "Who should answer?"


def data_and_dates(result: Evaluation) -> str:
    """The data's name and the days it spans; empty where the result does not know them."""
    if not result.data:
        return ""
    first = min(part.first for part in result.data.splits.values())[:10]
    last = max(part.last for part in result.data.splits.values())[:10]
    return f"{result.data.name} from {first} to {last}"


def lead(result: Evaluation) -> str:
    """What was measured, in a sentence or two."""
    parts = []
    if result.settings:
        crm, llm = result.settings["crm"], result.settings["llm"]
        models = [crm["model"], *(member["crm"]["model"] for member in crm["members"])]
        parts.append(
            f"{' and '.join(models)} as the CRM, {llm['model']} as the LLM ({llm['layout']} layout)"
        )
    parts.append(rows_in_words(result))
    if isinstance(result, StudyResult):
        parts.append(f"study {result.name}, seeds {', '.join(map(str, result.seeds))}")
    elif result.settings:
        parts.append(f"run {result.name}, seed {result.settings['seed']}")
    if result.machine:
        parts.append(f"corellarec {result.machine.corellarec}")
    return "; ".join(parts) + "."


def sections(result: Evaluation) -> list[Section]:
    """All sections of a result."""
    found = [
        Section("What was found", sentences=tuple(findings(result))),
        _models(result),
        *_groups(result),
        _budget(result),
    ]
    if isinstance(result, StudyResult):
        found += _of_study(result)
    found.append(
        Section(
            "Are the probabilities calibrated?",
            "On the diagonal, of the rows given probability p a share p is positive. CRM and LLM "
            "are shown as trained, before their calibration on validation.",
            figures=(partial(plots.reliability_figure, result.reliability),),
        )
    )
    found += _facts(result)
    return found


def _panels(figure: Callable[..., str], *values: Any) -> tuple[Callable[[], str], ...]:  # noqa: ANN401
    """A figure for each metric."""
    return tuple(partial(figure, *values, metric=metric) for metric in plots.TITLES)


def _models(result: Evaluation) -> Section:
    reference = result.row(result.reference).name
    drawn = (
        f"Negatives were drawn ({result.data.negatives}): figures compare with those of the same "
        "drawing alone, and p is that of a positive among them. "
        if result.data and result.data.negatives
        else ""
    )
    chosen = (
        f"{reference} is the best on validation of the models without an LLM. "
        if isinstance(result, StudyResult)
        else ""
    )
    return Section(
        "Quality on the test rows",
        f"{drawn}Small figures are 95 % intervals, users resampled whole; a dash where fewer than "
        "two users are measured, from which none can be estimated. Where there are several seeds, "
        "a figure is their mean, and the smallest and the largest are given. Differences are "
        f'paired, and "{grids.EQUAL}" is no difference in any resample. {chosen}'
        f"The cascades route {100 * result.router.budget:.0f} % of the rows at most, by a "
        "threshold fixed on validation: the least confident (entropy), or those of the highest "
        "expected gain (gain). The paper's cascade puts the LLM's raw probability in the place of "
        "the CRM's. The deployed cascade is what predicts: it routes no rows where validation "
        "shows no significant gain. ACC counts p ≥ 0.5 as positive; UAUC is the mean AUC within "
        "single users. The calibration error is the root mean square, over 15 groups of rows by p, "
        "of mean p minus the share of positives, without what label noise adds to it.",
        grids=(grids.main_grid(result),),
    )


def _groups(result: Evaluation) -> list[Section]:
    confidence, *others = result.segments
    found = [
        Section(
            "Who wins where: by the CRM's confidence",
            "Groups of equal size by the calibrated CRM's entropy; lines are 95 % intervals of "
            "each bar. The paper finds the LLM ahead in the first group. Within a group AUC is "
            "lower than over all rows, because the order of the groups is the CRM's own.",
            figures=_panels(plots.confidence_figure, confidence),
            details=(grids.segment_grid(confidence),),
        )
    ]
    if others:
        found.append(
            Section(
                "Who wins where: other groups of rows",
                "The LLM's figure minus the CRM's on the same rows, with 95 % intervals: in AUC "
                "right of the line the LLM is ahead, in log loss left of it. In brackets the rows. "
                f"Groups of fewer than {FEW_ROWS} rows or {FEW_USERS} users have no figures.",
                figures=_panels(plots.segments_figure, others),
                details=tuple(map(grids.segment_grid, others)),
            )
        )
    return found


def _budget(result: Evaluation) -> Section:
    gets = "the blend of both" if result.router.combine == "blend" else "the LLM's calibrated score"
    cost = ""
    if result.costs:
        cost = (
            f" A routed row costs {result.costs.llm_ms:.1f} ms and "
            f"{result.costs.llm_tokens:.1f} tokens."
        )
    return Section(
        "Quality against budget",
        f"A routed row gets {gets}. The dashed upright line is the configured budget, the flat "
        "line the CRM alone. The band is the 95 % interval of what the gain policy adds to "
        "the CRM, paired, at the budgets of the first table: where it crosses the flat line, the "
        "gain is not significant. The oracle knows "
        "the labels and routes the rows that gain most: a bound that no policy reaches; where it "
        "leaves the picture, the picture says how far it goes. The first table routes exactly the "
        "same share under both policies. In the last table, thresholds are fixed on validation; "
        "where more test rows are above one than a set budget allows, those of the highest value "
        f"are routed.{cost}",
        figures=_panels(plots.curves_figure, result.curves, result.budgets),
        grids=(
            grids.budget_grid(result.budgets),
            grids.area_grid(result.curves),
            grids.threshold_grid(result.thresholds),
        ),
    )


def _of_study(result: StudyResult) -> list[Section]:
    found = []
    if result.beside:
        found.append(
            Section(
                "The LLM beside every CRM",
                "The same LLM, a router fitted for each CRM as stage 1 leaves it; exactly 10 % of "
                "the test rows routed, those of the highest expected gain.",
                grids=(grids.beside_grid(result.beside),),
            )
        )
    if result.ablation:
        found.append(
            Section(
                "What each part brings",
                f"Seed {result.seeds[0]}. The column CRM is the method without routing. The last "
                "four columns show how far apart both models decide, uncalibrated: the share of "
                "rows on which they fall on different sides of one half, among all and where the "
                "CRM says 0.4 to 0.6; the LLM's mean probability minus the CRM's; the correlation "
                "of their logits.",
                grids=(grids.ablation_grid(result.ablation),),
            )
        )
    found.append(Section("No harm", grids=(grids.no_harm_grid(result.no_harm),)))
    return found


def _facts(result: Evaluation) -> list[Section]:
    """What was run, on what, and what it cost."""
    found, machine = [], result.machine
    where = (
        f"{machine.name}, {machine.cores} cores, {machine.device}; torch {machine.torch}, "
        f"transformers {machine.transformers}, peft {machine.peft}."
        if machine
        else ""
    )
    if result.costs:
        found.append(Section("What a score costs", where, grids=(grids.cost_grid(result.costs),)))
    if result.networks:
        found.append(
            Section(
                "What each network of the CRM adds",
                "The CRM is a weighted sum of the networks' logits, fitted on validation data; one "
                "of weight 0 is not computed. Log loss is on validation, of each network alone and "
                "of the blend without it; the table of quality has the test rows.",
                grids=(grids.network_grid(result.networks),),
            )
        )
    if result.stages:
        taught = result.distillation
        kept = ", ".join(f"{one.weight:g} ({one.network})" for one in taught)
        found.append(
            Section(
                "Training",
                "Validation log loss; the best weights of each model are kept."
                + (f" Distillation kept the weight {kept} of the LLM's answers." if kept else ""),
                figures=tuple(
                    partial(plots.training_figure, name, stage)
                    for name, stage in result.stages.items()
                ),
                grids=(grids.training_grid(result.stages),),
            )
        )
    if isinstance(result, StudyResult):
        found.append(
            Section(
                "What was run",
                "Seconds of the last call that trained or scored in the cell; steps that cells "
                f"share count once. {where}",
                grids=(grids.cell_grid(result.cells),),
            )
        )
    if data := result.data:
        found.append(
            Section(
                "Data",
                f"{data.name}: {count(data.rows)} rows, {count(data.users)} users, "
                f"{count(data.items)} items, {count(data.positives)} positives; cut by time over "
                "the whole log.",
                grids=(grids.data_grid(data),),
            )
        )
    texts = {"all settings": result.settings} if result.settings else {}
    texts |= {"the study": result.spec} if isinstance(result, StudyResult) else {}
    if texts:
        shown = tuple(
            (name, json.dumps(tree, indent=1, ensure_ascii=False)) for name, tree in texts.items()
        )
        found.append(Section("Settings", texts=shown))
    return found
