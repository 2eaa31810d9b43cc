"""The entry point: signals and errors end in one line and an exit code, never in a traceback.

The commands are imported once signals are handled.
"""

import sys

from corellarec.base.errors import CorellarecError
from corellarec.base.stop import Stopped, stop_on_signals


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
        if not isinstance(error, CorellarecError | OSError):  # OSError: a full disk, and the like
            raise
        _say(f"error: {error}", "red")
        sys.exit(2)


def _say_stopped(stop: Stopped) -> None:
    _say(f"stopped by {stop.signal.name}: what was finished is kept", "yellow")


def _say(text: str, style: str) -> None:
    from corellarec.cli.options import error_console

    error_console().print(text, style=style, markup=False, highlight=False, soft_wrap=True)
