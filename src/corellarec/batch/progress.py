"""What a job has done so far: rows/s, tokens/s, when its pass ends, what it costs."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from corellarec.base.console import Display

EVERY_S = 60.0  # between lines where no bar is seen, as in a cluster's log


@dataclass
class Meter:
    """Counts what a pass has done.

    Args:
        title: Of the pass.
        shards: To do.
        rows: To do.
        price_per_hour: Of all machines of the job; None where it is not known.
        clock: Seconds.
    """

    title: str
    shards: int
    rows: int
    price_per_hour: float | None = None
    clock: Callable[[], float] = time.monotonic
    rows_done: int = field(default=0, init=False)
    shards_done: int = field(default=0, init=False)
    tokens: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.begun = self.said = self.clock()

    def add(self, rows: int, tokens: int) -> None:
        """One more shard is done."""
        self.shards_done += 1
        self.rows_done += rows
        self.tokens += tokens

    @property
    def seconds(self) -> float:
        """Since the pass began."""
        return max(self.clock() - self.begun, 1e-9)

    def words(self) -> str:
        """Rates and price so far."""
        seconds = self.seconds
        said = f"{self.rows_done / seconds:,.0f} rows/s"
        if self.tokens:
            said += f", {self.tokens / seconds:,.0f} tokens/s"
        return said + (f", price so far {price}" if (price := self.price(seconds)) else "")

    def line(self) -> str:
        """The pass so far, and when it ends."""
        left = self.seconds * (self.rows - self.rows_done) / max(1, self.rows_done)
        end = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + left))
        shards = f"{self.shards_done:,} of {self.shards:,} shards"
        return f"{self.title}: {shards}, {self.words()}, ends about {end}"

    def price(self, seconds: float) -> str:
        """What so many seconds cost; nothing where that is not known."""
        return "" if self.price_per_hour is None else f"{seconds / 3600 * self.price_per_hour:,.2f}"

    def say(self, display: Display) -> None:
        """A line at most once a minute, where no bar is seen."""
        now = self.clock()
        if not display.console.is_terminal and now - self.said >= EVERY_S:
            self.said = now
            display.say(self.line())


def duration(seconds: float) -> str:
    """Seconds in words.

    Example:
        >>> duration(90), duration(600), duration(9000)
        ('90 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
