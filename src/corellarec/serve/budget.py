"""The budget of language model calls: a token bucket that a restart does not refill."""

import math
import threading
import time
from collections.abc import Callable

LEASE = 1000.0  # credit that may be spent between two savings; what a kill loses at most


class Bucket:
    """Credit for rows: a share of the rows scored, or so many a second.

    A crash must not give credit back that was spent. So ``saved`` is what the store holds, and
    never more is spent than the difference: credit goes below it only after a lower value was
    saved.

    Args:
        burst: Most credit that is kept.
        share: Credit that each scored row adds ...
        rows_per_s: ... or that each second adds, in its place.
        credit: To begin with, from the store.
        clock: Seconds, for tests.

    Example:
        >>> bucket = Bucket(burst=10, share=0.5)
        >>> bucket.take(scored=4, wanted=3)
        2
    """

    def __init__(
        self,
        burst: float,
        share: float = 0.0,
        rows_per_s: float | None = None,
        credit: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.burst, self.share, self.rows_per_s = burst, share, rows_per_s
        self._credit, self._clock, self._last = min(credit, burst), clock, clock()
        self._saved = self._credit  # nothing is spent until less is saved
        self._lock = threading.Lock()

    @property
    def level(self) -> float:
        """Credit at hand, in rows."""
        with self._lock:
            return self._credit

    def take(self, scored: int, wanted: int) -> int:
        """Rows that may be asked about, of those wanted.

        Args:
            scored: Rows scored by the request, which add their share.
            wanted: Rows that it would ask about.
        """
        with self._lock:
            self._add(scored)
            free = self._credit - min(self._saved, self._credit)
            granted = min(wanted, math.floor(free + 1e-9))
            self._credit -= granted
            return granted

    def give_back(self, rows: int) -> None:
        """Return credit of rows that no call was made for."""
        with self._lock:
            self._credit = min(self.burst, self._credit + rows)

    def to_save(self) -> float:
        """What is to be stored next; :meth:`saved` says that it was."""
        with self._lock:
            self._add(0)
            value = max(0.0, self._credit - LEASE)
            self._saved = max(self._saved, value)  # from now on the store may hold either
            return value

    def saved(self, value: float) -> None:
        """Say that the store holds ``value``."""
        with self._lock:
            self._saved = value

    def _add(self, scored: int) -> None:
        now = self._clock()
        seconds, self._last = now - self._last, now
        gained = self.share * scored if self.rows_per_s is None else self.rows_per_s * seconds
        self._credit = min(self.burst, self._credit + gained)
