"""The entry point: signals and errors end in one line and an exit code, never in a traceback.

The commands are imported once signals are handled. Of several processes under ``torchrun`` one says
what went wrong: it ends, and torchrun ends the others.
"""

import os
import sys
import time

from corellarec.base.errors import CorellarecError
from corellarec.base.stop import Stopped, stop_on_signals

GRACE_S = 5.0  # torchrun ends the others within a second


def main() -> None:
    """Run a command; what is the input's fault is one line on stderr and exit code 2."""
    came = stop_on_signals()
    try:
        from corellarec.cli.main import app

        app()
    except Stopped as stop:
        _say_stopped(stop)
        raise
    except Exception as error:
        if came:  # a library made an error of it
            _say_stopped(stop := Stopped(came[-1]))
            raise stop from None
        expected = isinstance(error, CorellarecError | OSError)  # OSError: a full disk, and such
        _let_another_say_it(expected)
        if not expected:
            raise
        _say(f"error: {error}", "red")
        sys.exit(2)


def _let_another_say_it(expected: bool) -> None:
    """Give torchrun the time to end this process, where another may have failed before.

    The first one says at once what all have found. One that has lost its connection to another, an
    error that is not expected, waits for that one.
    """
    if is_shared():
        time.sleep(GRACE_S * ((not _is_first()) + (not expected)))


def is_shared() -> bool:
    """Whether torchrun has started other processes beside this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _say_stopped(stop: Stopped) -> None:
    if _is_first():
        _say(f"stopped by {stop.signal.name}: what was finished is kept", "yellow")


def _say(text: str, style: str) -> None:
    from corellarec.cli.options import error_console

    error_console().print(text, style=style, markup=False, highlight=False, soft_wrap=True)
