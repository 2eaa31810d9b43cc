"""Progress: lines, spinners and bars, all on stderr."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


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
