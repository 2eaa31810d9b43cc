"""What all benchmarks share: options, rounds in turn, ratios, and the line of JSON."""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")


def parser(description: str | None, *, rounds: int | None = None) -> argparse.ArgumentParser:
    """The options of every benchmark.

    Args:
        description: Docstring of the script; its first paragraph opens ``--help``.
        rounds: Default of ``--rounds``; without it there is no such option.
    """
    summary = (description or "").partition("\n\n")[0]
    found = argparse.ArgumentParser(
        description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    found.add_argument(
        "--quick", action="store_true", help="smaller sizes: under four minutes on two cores"
    )
    found.add_argument(
        "--json", action="store_true", help="make the last line of stdout one JSON object"
    )
    if rounds is not None:
        found.add_argument("--rounds", type=int, default=rounds, help="rounds after the warm-up")
    return found


def parse(
    options: argparse.ArgumentParser, *, quick: Mapping[str, Any] | None = None
) -> argparse.Namespace:
    """Parse the command line.

    Args:
        options: Made by :func:`parser`.
        quick: Defaults under ``--quick``, by name; an option on the command line goes before them.
    """
    if options.parse_args().quick:
        options.set_defaults(**(quick or {}))
    return options.parse_args()


def take_turns(
    ways: Mapping[str, Callable[[], Result]], rounds: int, *, warm_up: bool = True
) -> dict[str, list[Result]]:
    """What each way returns in each round; a round runs all of them, one after the other.

    Args:
        ways: What is compared.
        rounds: Rounds that count.
        warm_up: Run each once before, and drop what it returns.
    """
    if warm_up:
        for way in ways.values():
            way()
    results: dict[str, list[Result]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            results[name].append(way())
    return results


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median over the rounds of the ratio of two figures of the same round."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def emit(
    given: argparse.Namespace,
    figures: Mapping[str, Any],
    *,
    ratio: float | None = None,
    ratio_of: str | None = None,
) -> None:
    """Print the ratio, and with ``--json`` one JSON object as the last line.

    Args:
        given: The command line.
        figures: What was measured, as JSON takes it.
        ratio: Ours beside the peer; None where the peer is not installed.
        ratio_of: What it is a ratio of; None where the benchmark has no peer, and then the JSON
            object has no ratio.

    Raises:
        ValueError: If a figure is infinite or not a number.
    """
    facts: dict[str, Any] = {"benchmark": Path(sys.argv[0]).stem, "quick": given.quick}
    if ratio_of is not None:
        facts |= {"ratio": ratio, "ratio_of": ratio_of}
        value = "not measured, the peer is not installed" if ratio is None else f"{ratio:.4g}"
        print(f"ratio: {value} ({ratio_of})")
    if given.json:
        print(json.dumps(facts | dict(figures), allow_nan=False))


def peak_memory_mb() -> float:
    """Most memory that this process has held so far, in MiB, on Linux.

    Not ``getrusage``: its figure begins with the size of the process that started this one.
    """
    with Path("/proc/self/status").open() as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
