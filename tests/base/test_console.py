"""Progress where no terminal shows a bar."""

import io
import re

import pytest
from rich.console import Console

from corellarec.base import console as console_module
from corellarec.base.console import Display


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [1000.0]
    monkeypatch.setattr(console_module.time, "monotonic", lambda: now[0])
    return now


def lines_of(clock, *, steps, seconds, begin=0, terminal=False, quiet=False):
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=300)
    with Display(console, quiet=quiet).bar("stage 1") as report:
        for step in range(begin, steps + 1):
            report(step, steps, "CRM log loss 0.58")
            clock[0] += seconds
    return text.getvalue().splitlines()


def test_a_log_file_has_a_line_every_thirty_seconds(clock):
    lines = lines_of(clock, steps=100, seconds=7)
    assert len(lines) == 700 // 35  # every fifth step
    assert re.fullmatch(
        r"stage 1: 5 of 100, 0\.143 a second, 0:11:05 left, until \d\d:\d\d; CRM log loss 0\.58",
        lines[0],
    )
    assert lines[-1].startswith("stage 1: 100 of 100, 0.143 a second, 0:00:00 left")


def test_the_rate_of_a_resumed_stage_is_that_of_now(clock):
    (line, *_) = lines_of(clock, begin=900, steps=1000, seconds=10)
    assert line.startswith("stage 1: 903 of 1,000, 0.1 a second, 0:16:10 left")


def test_what_is_short_or_quiet_has_no_lines(clock):
    assert lines_of(clock, steps=100, seconds=0.1) == []
    assert lines_of(clock, steps=100, seconds=60, quiet=True) == []
    assert lines_of(clock, steps=1, seconds=60) != []
