"""Tables of searches and baselines, for the terminal."""

from rich.table import Table

from corellarec.research.baselines.experiment import BaselineResult
from corellarec.research.tune import SearchResult


def search_table(found: SearchResult, best: int = 5) -> Table:
    """The best trials of a search for hyper-parameters."""
    table = Table(
        title=f"{found.model}: {found.trials} trials, {found.cut_off} cut off early",
        title_justify="left",
    )
    table.add_column("validation log loss", justify="right")
    names = list(found.settings)
    for name in names:
        table.add_column(name.removeprefix("crm.").removeprefix("stage1."), justify="right")
    for trial in found.finished[:best]:
        values = [trial.settings.get(name) for name in names]
        shown = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in values]
        table.add_row(f"{trial.crm_log_loss:.4f}", *shown)
    return table


def baseline_table(found: BaselineResult) -> Table:
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
