"""The entry point: signals and errors end in one line and an exit code, never in a traceback.

The commands are imported once signals are handled.
"""

import sys

from corellarec.base.errors import CorellarecError
from corellarec.base.stop import Stopped, stop_on_signals


def main() -> None:
    """Run a command; what is the input's fault is one line on stderr and exit code 2."""
    stop_on_signals()
    try:
        from corellarec.cli.main import app

        app()
    except (CorellarecError, OSError) as error:  # OSError: a full disk, a directory not ours
        _say(f"error: {error}", "red")
        sys.exit(2)
    except Stopped as stop:
        _say(f"stopped by {stop.signal.name}: what was finished is kept", "yellow")
        raise


def _say(text: str, style: str) -> None:
    from corellarec.cli.options import error_console

    error_console().print(text, style=style, markup=False, highlight=False, soft_wrap=True)
