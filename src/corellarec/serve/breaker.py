"""A circuit breaker: what keeps failing is left alone for a while, then tried once."""

import threading
import time
from collections.abc import Callable


class Breaker:
    """Closed, it lets all calls through; after failures in a row it opens, and lets none.

    After a pause one call is let through: its success closes the breaker, its failure opens it for
    a pause twice as long. So a moment's overload costs little, and what is gone is rarely tried.

    Args:
        failures: In a row, that open it.
        pause_s: Longest pause, in seconds; the first is a sixteenth of it.
        clock: Seconds, for tests.
    """

    def __init__(
        self, failures: int, pause_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.failures, self.pause_s, self._clock = failures, pause_s, clock
        self._failed, self._until, self._pause = 0, 0.0, 0.0
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether calls are held back."""
        with self._lock:
            return self._failed >= self.failures

    def allows(self) -> bool:
        """Whether a call may be made now; where it is a trial, only one is until it has ended."""
        with self._lock:
            if self._failed < self.failures:
                return True
            now = self._clock()
            if now < self._until:
                return False
            self._until = now + self._pause
            return True

    def succeeded(self) -> None:
        """A call was answered in time."""
        with self._lock:
            self._failed, self._pause = 0, 0.0

    def failed(self) -> None:
        """A call failed, or was answered too late."""
        with self._lock:
            self._failed += 1
            if self._failed >= self.failures:
                self._pause = min(max(2 * self._pause, self.pause_s / 16), self.pause_s)
                self._until = self._clock() + self._pause
