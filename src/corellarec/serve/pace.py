"""How fast requests are answered, and whether one more would be in time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SMOOTHING = 0.05  # weight of the newest request in the mean
LONGEST_S = 0.1  # between two answers; a longer gap was idle
FEW = 4  # requests that are always let in
SHARE = 0.6  # of a request's time that the requests before it may take


class OverloadedError(Exception):
    """The answer would come after its deadline.

    Args:
        wait_s: Seconds after which it is worth asking again.
    """

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s


class Pace:
    """Counts requests that need the processor, and the mean time between their answers.

    A request that waits for the language model does not count. Used from one event loop.

    Args:
        clock: Seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.active, self.seconds_per_request = 0, 0.0
        self._clock, self._last = clock, clock()

    @contextmanager
    def request(self, deadline: float) -> Iterator[None]:
        """A request from here to its answer.

        Args:
            deadline: Of the clock.

        Raises:
            OverloadedError: If those before it leave too little time.
        """
        wait = self.active * self.seconds_per_request
        if self.active >= FEW and wait > SHARE * (deadline - self._clock()):
            raise OverloadedError(wait)
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1
            now = self._clock()
            if self.active:
                gap = min(now - self._last, LONGEST_S)
                self.seconds_per_request += SMOOTHING * (gap - self.seconds_per_request)
            self._last = now

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While a request waits and needs no processor."""
        self.active -= 1
        try:
            yield
        finally:
            self.active += 1
