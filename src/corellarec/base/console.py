"""Progress: lines, spinners and bars, all on stderr."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

LINE_SECONDS = 30.0  # between two lines of progress in a log file


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
        """A progress bar; the yielded function takes (done, total, message).

        Where the console is no terminal, as in a log file, a line about every 30 s takes its place.
        """
        if not self.quiet and not self.console.is_terminal:
            yield _Lines(self, title)
            return
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[message]}"),
            console=self.console,
            transient=True,
            disable=self.quiet,
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


class _Lines:
    """Progress as lines: how much is done, how fast, and when it ends."""

    def __init__(self, display: Display, title: str) -> None:
        self.display, self.title = display, title
        self.began = self.said = time.monotonic()
        self.first: int | None = None  # a resumed stage begins in the middle

    def __call__(self, done: int, total: int, message: str) -> None:
        now = time.monotonic()
        if self.first is None:
            self.began, self.first = now, done
        if now - self.said < LINE_SECONDS or done <= self.first:
            return
        self.said = now
        rate = (done - self.first) / (now - self.began)
        left = timedelta(seconds=round((total - done) / rate))
        end = datetime.now().astimezone() + left
        self.display.say(
            f"{self.title}: {done:,} of {total:,}, {rate:,.3g} a second, {left} left, "
            f"until {end:%H:%M}" + (f"; {message}" if message else "")
        )


def say_warnings(console: Console, warnings: Iterable[str]) -> None:
    """One line for each warning about a log."""
    for warning in warnings:
        console.print(
            f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True
        )
