"""Calls of the command line in this process."""

import sys

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


def options(settings):
    return [part for setting in settings for part in ("--set", setting)]
