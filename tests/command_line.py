"""Calls of the command line in this process."""

import sys

from corellarec.cli import main as cli


def call(monkeypatch, capsys, *arguments):
    """Exit code, stdout and stderr of a command, in this process."""
    monkeypatch.setattr(sys, "argv", ["corellarec", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capsys.readouterr()
    return code, out, err


def options(settings):
    return [part for setting in settings for part in ("--set", setting)]
