"""A circuit breaker: what keeps failing is left alone for a while, then tried once."""

import threading
import time
from collections.abc import Callable


class Breaker:
    """Closed, it lets all calls through; after failures in a row it opens, and lets none.

    After a pause one call is let through: its success closes the breaker, its failure opens it for
    another pause.

    Args:
        failures: In a row, that open it.
        pause_s: Seconds that it stays open.
        clock: Seconds, for tests.
    """

    def __init__(
        self, failures: int, pause_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.failures, self.pause_s, self._clock = failures, pause_s, clock
        self._failed, self._until = 0, 0.0
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
            self._until = now + self.pause_s
            return True

    def succeeded(self) -> None:
        """A call was answered in time."""
        with self._lock:
            self._failed = 0

    def failed(self) -> None:
        """A call failed, or was answered too late."""
        with self._lock:
            self._failed += 1
            if self._failed >= self.failures:
                self._until = self._clock() + self.pause_s
