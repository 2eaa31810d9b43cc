"""Calls of the command line in this process."""

import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from unittest.mock import patch

from corellarec.cli import entry


def call(monkeypatch, capsys, *arguments):
    """Exit code, stdout and stderr of a command, in this process."""
    monkeypatch.setattr(entry, "stop_on_signals", lambda: None)  # pytest handles its own
    monkeypatch.setattr(sys, "argv", ["corellarec", *map(str, arguments)])
    code = 0
    try:
        entry.main()
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capsys.readouterr()
    return code, out, err


def run(*arguments):
    """Stdout and stderr of a command that succeeds, in this process: for fixtures of many tests."""
    out, err = StringIO(), StringIO()
    with (
        patch.object(entry, "stop_on_signals", lambda: None),
        patch.object(sys, "argv", ["corellarec", *map(str, arguments)]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        code = 0
        try:
            entry.main()
        except SystemExit as stop:
            code = stop.code
    assert not code, err.getvalue()
    return out.getvalue(), err.getvalue()


def options(settings):
    return [part for setting in settings for part in ("--set", setting)]
