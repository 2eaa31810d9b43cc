"""Tables for a terminal of 80 columns or more: figures are never cut, long names are folded."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from corellarec.data.wizard import Use
    from corellarec.llm.catalog import ListedModel
    from corellarec.research.baselines.experiment import BaselineResult
    from corellarec.research.tune import SearchResult
    from corellarec.serve.estimate import Gains


def uses_table(uses: Sequence["Use"]) -> Table:
    """What each column of one's own tables is used for, and some of its values."""
    table = Table(title="what the columns are taken for", title_justify="left")
    for heading in ("file", "column", "used as", "values"):
        table.add_column(heading, overflow="fold")
    for use in uses:
        values = ", ".join(shorten(value) for value in use.values)
        table.add_row(*(escape(text) for text in (use.table, use.column, use.use, values)))
    return table


def shorten(value: str, most: int = 24) -> str:
    """A value in at most so many characters."""
    return value if len(value) <= most else f"{value[: most - 1]}…"


def search_table(found: "SearchResult", best: int = 5) -> Table:
    """The best trials of a search for hyper-parameters, side by side."""
    table = Table(
        title=f"{found.model}: {found.trials} trials, {found.cut_off} cut off early",
        title_justify="left",
    )
    trials = found.finished[:best]
    table.add_column("validation log loss", overflow="fold")
    for trial in trials:
        table.add_column(f"{trial.crm_log_loss:.4f}", justify="right", overflow="fold")
    for name in found.settings:
        values = [trial.settings.get(name) for trial in trials]
        shown = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in values]
        table.add_row(name.removeprefix("crm.").removeprefix("stage1."), *shown)
    return table


def baseline_table(found: "BaselineResult") -> Table:
    """A baseline's figures."""
    table = Table(
        title=f"{found.baseline} ({found.model}), {found.test_rows:,} of "
        f"{found.split_rows:,} test rows ({found.test_users:,} users), 95 % intervals",
        title_justify="left",
        show_header=False,
    )
    for metric, title in (("auc", "AUC"), ("log_loss", "log loss"), ("accuracy", "ACC")):
        figure = found.test[metric]
        table.add_row(title, f"{figure.value:.4f} ({figure.low:.3f} to {figure.high:.3f})")
    table.add_row("validation log loss", f"{found.validation_log_loss:.4f}")
    table.add_row("rows trained on", f"{found.rows:,}")
    table.add_row("seconds of training", f"{found.seconds:.0f}")
    table.add_row("ms a sample", f"{found.ms_per_sample:.3g}")
    return table


def models_table(found: "Sequence[ListedModel]") -> Table:
    """The language models that have a name here."""
    table = _folded("name", "from", "licence", "cached")
    for one in found:
        table.add_row(one.name, one.source, one.licence, "yes" if one.cached else "no")
    return table


def ranking_table(found: pl.DataFrame, titles: Mapping[str, str]) -> Table:
    """Recommended items; ``titles`` by item."""
    table = _folded("user", "rank", "item", "title", "p", "source")
    for row in found.iter_rows(named=True):
        cells = [row["user"], str(row["rank"]), row["item"], titles[row["item"]]]
        table.add_row(*cells, f"{row['p']:.4f}", row["source"])
    return table


def gains_table(gains: "Gains", *, lists: bool = False) -> Table:
    """What asking the LLM gains in service on rows, or on lists, by each estimator."""
    table = (
        _folded("NDCG@10 gained on a list above the threshold", "NDCG", "95 %")
        if lists
        else _folded("log loss saved on a row above the threshold", "nats", "95 %")
    )
    for name in ("inverse_propensity", "doubly_robust", "paired"):
        gain = getattr(gains, name)
        ends = f"{gain.low:+.4f} to {gain.high:+.4f}"
        table.add_row(name.replace("_", " "), f"{gain.value:+.4f}", ends)
    return table


def _folded(*names: str) -> Table:
    table = Table()
    for name in names:
        whole = name in ("from", "rank", "p", "nats", "NDCG", "95 %", "cached")
        table.add_column(name, overflow="fold", no_wrap=whole)
    return table
