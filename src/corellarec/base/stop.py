"""SIGINT and SIGTERM: how they stop a program, and what they do not cut in two."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(SystemExit):
    """A signal stopped the program; its exit code is 128 and the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


RETRY_S = 0.05


def stop_on_signals() -> list[int]:
    """From now on SIGINT and SIGTERM raise :class:`Stopped` in the main thread.

    A signal may come while Python runs a callback that cannot raise, such as one of the import
    system's. What it raises is lost there, and raised again a little later. It may also come while
    a library's C code calls Python, and become an error of the library: the caller is given the
    list of the signals that have come, to tell.
    """
    came: list[int] = []

    def stop(number: int, _: object) -> None:
        came.append(number)
        raise Stopped(number)

    def again(_number: int, _: object) -> None:
        raise Stopped(came[-1])

    report = sys.unraisablehook

    def lost(unraisable: "sys.UnraisableHookArgs") -> None:
        if isinstance(unraisable.exc_value, Stopped):
            signal.signal(signal.SIGALRM, again)
            signal.setitimer(signal.ITIMER_REAL, RETRY_S)
        else:
            report(unraisable)

    sys.unraisablehook = lost
    for number in SIGNALS:
        signal.signal(number, stop)
    return came


@contextmanager
def signals_held() -> Iterator[list[int]]:
    """Hold SIGINT and SIGTERM back until the body has ended.

    Yields the list of those that have come so far; the first takes effect afterwards. Nothing is
    held outside the main thread, which alone can be told of signals.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {n: signal.signal(n, lambda number, _: came.append(number)) for n in SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if came:
        signal.raise_signal(came[0])
