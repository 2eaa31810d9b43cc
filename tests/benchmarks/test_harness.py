import importlib.util
import json
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "harness.py"


@pytest.fixture(scope="module")
def harness():
    spec = importlib.util.spec_from_file_location("harness", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def parse(harness, monkeypatch):
    """The rows and rounds that a command line gives."""

    def read(*arguments):
        monkeypatch.setattr(sys, "argv", ["speed.py", *arguments])
        options = harness.parser("Speed.", rounds=3)
        options.add_argument("--rows", type=int, default=100)
        return harness.parse(options, quick={"rows": 10, "rounds": 1})

    return read


@pytest.mark.parametrize(
    ("arguments", "rows", "rounds"),
    [
        ([], 100, 3),
        (["--rows", "7"], 7, 3),
        (["--quick"], 10, 1),
        (["--quick", "--rows", "7"], 7, 1),
    ],
)
def test_quick_replaces_defaults_alone(parse, arguments, rows, rounds):
    given = parse(*arguments)
    assert (given.rows, given.rounds) == (rows, rounds)


def test_turns_alternate_and_the_warm_up_is_dropped(harness):
    calls = []

    def way(name):
        calls.append(name)
        return len(calls)

    results = harness.take_turns({"a": lambda: way("a"), "b": lambda: way("b")}, 2)
    assert "".join(calls) == "ababab"
    assert results == {"a": [3, 5], "b": [4, 6]}


def test_a_ratio_is_the_median_of_the_rounds_ratios(harness):
    assert harness.median_ratio([2.0, 9.0, 4.0], [1.0, 3.0, 1.0]) == 3.0


def test_emit_ends_with_json_if_asked(harness, parse, capsys):
    harness.emit(parse("--json"), {"rows": 3}, ratio=2.0, ratio_of="ours over theirs")
    text, last = capsys.readouterr().out.splitlines()
    assert text == "ratio: 2 (ours over theirs)"
    assert json.loads(last) == {
        "benchmark": "speed", "quick": False, "ratio": 2.0, "ratio_of": "ours over theirs",
        "rows": 3,
    }  # fmt: skip
    harness.emit(parse(), {"rows": 3})
    assert capsys.readouterr().out == ""


def test_emit_refuses_what_json_does_not_know(harness, parse):
    with pytest.raises(ValueError, match="JSON"):
        harness.emit(parse("--json"), {"seconds": float("nan")})
