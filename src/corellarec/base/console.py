"""What a person sees while a run works: lines, spinners, progress bars, all on stderr."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table


class Display:
    """Lines and progress on a console.

    Args:
        console: Where to write.
        quiet: Whether to show nothing, as all processes but the main one do.
    """

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self.console, self.quiet = console, quiet

    def say(self, message: str) -> None:
        """One line, however long."""
        if not self.quiet:
            self.console.print(message, highlight=False, soft_wrap=True)

    @contextmanager
    def waiting(self, message: str) -> Iterator[None]:
        """A spinner while the body runs."""
        if self.quiet:
            yield
            return
        with self.console.status(message):
            yield

    @contextmanager
    def bar(self, title: str) -> Iterator[Callable[[int, int, str], None]]:
        """A progress bar; the yielded function takes (done, total, message)."""
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[message]}"),
            console=self.console,
            transient=True,
            disable=self.quiet or not self.console.is_terminal,
        )
        with bar:
            task = bar.add_task(title, total=None, message="")

            def report(done: int, total: int, message: str) -> None:
                bar.update(task, completed=done, total=total, message=message)

            yield report

    @contextmanager
    def counting(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar; the yielded function takes how many more are done."""
        done = 0
        with self.bar(title) as report:

            def more(count: int) -> None:
                nonlocal done
                done += count
                report(done, total, "")

            yield more


def say_warnings(console: Console, warnings: Iterable[str]) -> None:
    """One line for each warning about a log."""
    for warning in warnings:
        console.print(
            f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True
        )


def search(found: dict[str, Any], best: int = 5) -> Table:
    """The best trials of a search for hyper-parameters."""
    table = Table(
        title=f"{found['model']}: {found['trials']} trials, {found['cut_off']} cut off early",
        title_justify="left",
    )
    table.add_column("validation log loss", justify="right")
    names = list(found["settings"])
    for name in names:
        table.add_column(name.removeprefix("crm.").removeprefix("stage1."), justify="right")
    for trial in found["all"][:best]:
        values = [trial.get(name) for name in names]
        shown = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in values]
        table.add_row(f"{trial['crm_log_loss']:.4f}", *shown)
    return table


def baseline_table(found: dict[str, Any]) -> Table:
    """A baseline's figures."""
    test = found["test"]
    table = Table(
        title=f"{found['baseline']} ({found['model']}), {test['rows']:,} of "
        f"{test['split_rows']:,} test rows ({test['users']:,} users), 95 % intervals",
        title_justify="left",
    )
    titles = {"auc": "AUC", "log_loss": "log loss", "accuracy": "ACC"}
    cells = [
        f"{test[name]['value']:.4f} [dim]{test[name]['low']:.3f}-{test[name]['high']:.3f}[/]"
        for name in titles
    ]
    cells += [f"{found['validation_log_loss']:.4f}", f"{found['rows']:,}"]
    cells += [f"{found['seconds']:.0f}", f"{found['ms_per_sample']:.3g}"]
    others = ("validation log loss", "rows trained on", "seconds of training", "ms a sample")
    for title in (*titles.values(), *others):
        table.add_column(title, justify="right")
    table.add_row(*cells)
    return table
