"""The tables of a report as rows of text, which the page and Markdown render alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

from corellarec.cascade.threshold import ROUTE_NONE
from corellarec.evaluation.answers import PREDICTORS
from corellarec.evaluation.parts import (
    AblationRow,
    BesideRow,
    BudgetPoint,
    CellFacts,
    Costs,
    Curves,
    DataFacts,
    Figure,
    Network,
    NoHarm,
    PredictorRow,
    Segment,
    ThresholdRow,
    TrainingCurve,
)
from corellarec.evaluation.results import Evaluation
from corellarec.evaluation.text import (
    DASH,
    count,
    interval,
    is_nothing,
    number,
    percent,
    signed,
    signed_interval,
    step_title,
)

METRICS = {
    "auc": "AUC",
    "log_loss": "log loss",
    "accuracy": "ACC",
    "uauc": "UAUC",
    "calibration_error": "calibration error",
}
EQUAL = "the same"
KINDS = {  # in the order of the main table
    "yardstick": "a single statistic",
    "crm": "CRMs alone",
    "baseline": "baselines with an LLM",
    "llm": "LLM alone",
    "cascade": "CRM and LLM",
    "control": "a second CRM in the LLM's place",
}


@dataclass(frozen=True)
class Cell:
    """A text, and a smaller one under it or in brackets."""

    text: str
    small: str = ""


@dataclass(frozen=True)
class Line:
    """A table's row; ``kind`` is a heading above the first row of each kind."""

    cells: tuple[Cell, ...]
    kind: str = ""
    is_main: bool = False


@dataclass(frozen=True)
class Grid:
    """A table: one text for each column, and the rows; the first column is names."""

    head: tuple[str, ...]
    lines: tuple[Line, ...]


def grid_of(head: Sequence[str], rows: Sequence[Sequence[str | Cell]]) -> Grid:
    """A table of texts."""
    lines = [
        Line(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row)) for row in rows
    ]
    return Grid(tuple(head), tuple(lines))


def _metric(figure: Figure, seeds: int = 1) -> Cell:
    small = interval(figure)
    if seeds > 1:
        small += f"; seeds {number(figure.smallest)}-{number(figure.largest)}"
    return Cell(number(figure.value), small)


def _over(figure: Figure) -> Cell:
    if is_nothing(figure):
        return Cell(EQUAL)
    return Cell(signed(figure.value), signed_interval(figure))


def grouped(rows: Sequence[PredictorRow]) -> list[tuple[str, PredictorRow]]:
    """The predictors as they are read, each with the heading that it stands under.

    What predicts is first. Variants of the method, whose keys are ``WAY/VARIANT``, come last, each
    variant's rows together.
    """

    def variant(row: PredictorRow) -> str:
        way, _, name = row.key.partition("/")
        return name if way in PREDICTORS and way != "crm" else ""  # crm/NAME is another CRM

    variants = list(dict.fromkeys(variant(row) for row in rows))

    def place(row: PredictorRow) -> tuple[bool, bool, int, bool]:
        of = variant(row)
        return (
            row.key != "cascade",
            of != "",
            variants.index(of),
            of == "" or row.key != f"cascade/{of}",
        )

    def heading(row: PredictorRow) -> str:
        if row.key == "cascade":
            return "what predicts"
        return f"variant: {variant(row)}" if variant(row) else KINDS[row.kind]

    return [(heading(row), row) for row in sorted(rows, key=place)]


def main_grid(result: Evaluation) -> Grid:
    """Every predictor with all metrics, its differences from the reference, and its costs."""
    reference = result.row(result.reference)
    head = ["", "LLM share", *METRICS.values(), f"AUC over {reference.name}", "log loss over it"]
    has_costs = any(row.ms is not None or row.tokens is not None for row in result.table)
    head += ["ms / 1,000", "tokens / 1,000"] if has_costs else []

    def line(heading: str, row: PredictorRow) -> Line:
        part = "" if row.rows == result.rows else f"{row.rows:,} of the rows"
        if row.kind == "cascade" and row.llm_share == 0:
            part = "routes no rows: its CRM answers"
        cells = [Cell(row.name, part), Cell(percent(row.llm_share))]
        cells += [_metric(row.metrics[name], row.seeds) for name in METRICS]
        is_reference = row.key == reference.key
        cells += [
            Cell(DASH) if is_reference else _over(row.over_reference[name])
            for name in ("auc", "log_loss")
        ]
        if has_costs:
            cells += [Cell(count(row.ms)), Cell(count(row.tokens))]
        return Line(tuple(cells), heading, row.key == "cascade")

    return Grid(tuple(head), tuple(line(*one) for one in grouped(result.table)))


def segment_grid(segment: Segment) -> Grid:
    """Each predictor's AUC and its differences from the CRM's in each group."""
    names = next((list(group.predictors) for group in segment.groups if group.predictors), [])
    head = [segment.title, "rows", "users", *(f"{name}: AUC" for name in names)]
    head += [f"{name} over CRM" for name in names[1:]]
    head += [f"{name} over CRM, log loss" for name in names[1:]]
    rows = []
    for group in segment.groups:
        row: list[str | Cell] = [group.name, f"{group.rows:,}", f"{group.users:,}"]
        if group.predictors:
            of = group.predictors
            row += [_metric(of[name].metrics["auc"]) for name in names]
            row += [_over(of[name].over_reference["auc"]) for name in names[1:]]
            row += [_over(of[name].over_reference["log_loss"]) for name in names[1:]]
        rows.append(row + [DASH] * (len(head) - len(row)))
    return grid_of(head, rows)


def budget_grid(budgets: Sequence[BudgetPoint]) -> Grid:
    """Both policies at the same budgets."""
    titles = {"auc": "AUC", "log_loss": "log loss"}
    head = ["rows routed"]
    for title in titles.values():
        head += [f"entropy: {title}", f"gain: {title}", "gain over entropy"]
    rows = [
        [
            percent(point.budget, 0),
            *(
                cell
                for name in titles
                for cell in (
                    number(point.entropy[name].value),
                    number(point.gain[name].value),
                    _over(point.gain_over_entropy[name]),
                )
            ),
        ]
        for point in budgets
    ]
    return grid_of(head, rows)


def area_grid(curves: Curves) -> Grid:
    """The area between each policy's curve and that of routing at random."""
    rows = [
        [name, signed(curve.area["auc"], 5), signed(curve.area["log_loss"], 5)]
        for name, curve in curves.policies.items()
        if name != "random"
    ]
    return grid_of(["area over random", "AUC", "log loss"], rows)


def threshold_grid(thresholds: Sequence[ThresholdRow]) -> Grid:
    """What each threshold promised on validation, and what it gives on the test rows."""
    head = ["policy, seed", "threshold", "routed on validation", "95 % bound",
            "nats a routed row gains there", "above it on test", "routed on test",
            "nats a routed test row gains"]  # fmt: skip
    rows = [
        [
            f"{one.policy}, {one.seed}",
            # A threshold that no value reaches, or that every value does, has no digits to show.
            number(one.threshold) if abs(one.threshold) < ROUTE_NONE else DASH,
            percent(one.validation_share),
            percent(one.validation_bound),
            Cell(
                signed(one.validation_gain),
                f"lower bound {signed(one.validation_gain_bound)}: "
                + ("significant" if one.helps else "not significant"),
            ),
            percent(one.above),
            percent(one.routed),
            signed(one.gain),
        ]
        for one in thresholds
    ]
    return grid_of(head, rows)


def beside_grid(rows: Sequence[BesideRow]) -> Grid:
    """The LLM beside every CRM."""
    head = ["", "alone: AUC", "10 % routed: AUC", "over the CRM", "every row: AUC", "over the CRM",
            "alone: log loss", "10 % routed: log loss", "over the CRM"]  # fmt: skip
    lines = []
    for row in rows:
        cells: list[str | Cell] = [row.name]
        for metric, ways in (("auc", (row.budget, row.every_row)), ("log_loss", (row.budget,))):
            cells.append(number(row.crm[metric].value))
            for way in ways:
                cells += [number(way.metrics[metric].value), _over(way.over_reference[metric])]
        lines.append(cells)
    return grid_of(head, lines)


def ablation_grid(variants: Sequence[AblationRow]) -> Grid:
    """The method with parts left out."""
    head = ["", "CRM: AUC", "LLM: AUC", "cascade: AUC", "over the full method", "LLM share",
            "every row: AUC", "disagree", "near one half", "shift", "correlation"]  # fmt: skip
    rows = []
    for one in variants:
        auc = {name: number(of.metrics["auc"].value) for name, of in one.predictors.items()}
        rows.append(
            [
                one.name,
                *(auc[key] for key in ("crm_calibrated", "llm_calibrated", "cascade")),
                _over(one.predictors["cascade"].over_reference["auc"]),
                percent(one.llm_share),
                auc["blend_all"],
                percent(one.boundary.disagree),
                percent(one.boundary.disagree_near),
                signed(one.boundary.shift),
                number(one.boundary.correlation, 2),
            ]
        )
    return grid_of(head, rows)


def no_harm_grid(cascades: Sequence[NoHarm]) -> Grid:
    """Every deployed cascade against its own CRM."""

    def judged(one: NoHarm) -> str:
        gap = one.log_loss_over_crm
        if isnan(gap.low):
            return "no interval"
        if is_nothing(gap):
            return "routes no rows: its CRM answers"
        return "worse beyond the interval" if one.harm else "not worse"

    head = ["cascade", "log loss over its own CRM", ""]
    return grid_of(
        head, [[one.name, _over(one.log_loss_over_crm), judged(one)] for one in cascades]
    )


def cost_grid(costs: Costs) -> Grid:
    """Tokens and milliseconds for a row."""
    rows = [
        [f"tokens, {name} layout, one row a prompt", f"{tokens:.1f}"]
        for name, tokens in costs.layout_tokens.items()
    ]
    rows.append(["tokens, as the test rows were scored", f"{costs.llm_tokens:.1f}"])
    if costs.crm_ms is not None:
        rows.append(["ms, CRM", f"{costs.crm_ms:.4f}"])
    rows.append(["ms, LLM", f"{costs.llm_ms:.2f}"])
    return grid_of(["for a row", ""], rows)


def network_grid(networks: Sequence[Network]) -> Grid:
    """The networks of a CRM that is several."""
    rows = [
        [one.name, f"{one.weight:.2f}", number(one.alone), number(one.without), f"{one.ms:.4f}"]
        for one in networks
    ]
    return grid_of(["", "weight", "alone", "blend without it", "ms for a row"], rows)


def training_grid(stages: Mapping[str, TrainingCurve]) -> Grid:
    """Steps and seconds of each stage."""
    rows = [
        [
            step_title(name),
            count(one.step),
            count(one.seconds),
        ]
        for name, one in stages.items()
    ]
    return grid_of(["", "steps", "seconds"], rows)


def cell_grid(cells: Sequence[CellFacts]) -> Grid:
    """What a study ran."""
    rows = [[f"{one.kind}: {one.name}", str(one.seed), count(one.seconds)] for one in cells]
    return grid_of(["cell", "seed", "seconds"], rows)


def data_grid(data: DataFacts) -> Grid:
    """The splits of the log."""
    head = ["split", "rows", "positives", "rows of unseen users", "rows of unseen items", "from",
            "to"]  # fmt: skip
    rows = [
        [
            name,
            f"{part.rows:,}",
            f"{part.positives:,}",
            f"{part.cold_user_rows:,}",
            f"{part.cold_item_rows:,}",
            part.first,
            part.last,
        ]
        for name, part in data.splits.items()
    ]
    return grid_of(head, rows)
