"""The figures of an evaluation as tables for a terminal of 80 columns or more."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group
from rich.table import Table

from corellarec.evaluation.compare import Comparison
from corellarec.evaluation.grids import grouped
from corellarec.evaluation.parts import PredictorRow, Segment
from corellarec.evaluation.results import Evaluation
from corellarec.evaluation.text import (
    interval,
    number,
    percent,
    rows_in_words,
    signed,
    signed_interval,
)

MAIN = {"auc": "AUC", "log_loss": "log loss"}
OTHERS = {"accuracy": "ACC", "calibration_error": "calibration error"}


def tables(result: Evaluation) -> Group:
    """The main table in two parts and the groups by CRM confidence; figures are never cut."""
    title = f"{rows_in_words(result)}, with 95 % intervals"
    main = plain_table(title, ["", "LLM share", *_with_intervals(MAIN.values())])
    others = plain_table("", ["", *_with_intervals(OTHERS.values())])
    for _, row in grouped(result.table):
        style = "bold" if row.key == "cascade" else ""
        main.add_row(row.name, percent(row.llm_share), *_cells(row, MAIN), style=style)
        others.add_row(row.name, *_cells(row, OTHERS), style=style)
    return Group(main, "", others, "", _groups(result.segments[0]))


def comparison_tables(found: Comparison) -> Group:
    """A comparison's AUC and log loss, with differences from the first run's cascade."""
    title = (
        f"{found.rows:,} test rows of {found.users:,} users that every run scored"
        + (f" ({found.left_out:,} more that only some did)" if found.left_out else "")
        + f"; differences from {found.table[1].name}, with 95 % intervals"
    )
    tables = []
    for metric, name in MAIN.items():
        table = plain_table(title if not tables else "", ["", "LLM share", name, "difference", ""])
        for row in found.table:
            gap = row.over_reference[metric]
            cells = ["", ""]
            if row is not found.table[1]:
                cells = [signed(gap.value), f"[dim]{signed_interval(gap, 3)}[/]"]
            style = "bold" if row.kind == "cascade" else ""
            values = [percent(row.llm_share), number(row.metrics[metric].value)]
            table.add_row(row.name, *values, *cells, style=style)
        tables += [table, ""]
    return Group(*tables[:-1])


def plain_table(title: str, head: Sequence[str]) -> Table:
    """A table whose first column gives way where the width is short, and no other."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True,
                  pad_edge=False, show_edge=False)  # fmt: skip
    table.add_column(head[0], overflow="fold")
    for name in head[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _with_intervals(titles: Iterable[str]) -> list[str]:
    return [name for title in titles for name in (title, "")]


def _cells(row: PredictorRow, metrics: dict[str, str]) -> list[str]:
    figures = [row.metrics[name] for name in metrics]
    return [text for f in figures for text in (number(f.value), f"[dim]{interval(f, 3)}[/]")]


def _groups(segment: Segment) -> Table:
    head = ["", "rows", "CRM AUC", "LLM AUC", "LLM - CRM", "95 % interval"]
    table = plain_table("Groups by CRM confidence, least confident first", head)
    for group in segment.groups:
        if not group.predictors:
            table.add_row(group.name, f"{group.rows:,}", *["–"] * (len(head) - 2))
            continue
        crm, llm = group.predictors["CRM"], group.predictors["LLM"]
        gap = llm.over_reference["auc"]
        table.add_row(
            group.name,
            f"{group.rows:,}",
            number(crm.metrics["auc"].value),
            number(llm.metrics["auc"].value),
            signed(gap.value),
            f"[dim]{signed_interval(gap, 3)}[/]",
        )
    return table
