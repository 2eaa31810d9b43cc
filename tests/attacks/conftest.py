"""How many attacks to try, and the table of what became of them."""

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass
class Attack:
    """One kind of attack, tried many times with random choices from a seed.

    Args:
        name: Its row in the table.
        hard: Whether all of it is to be tried, or a quick selection.
        seed: Of its random choices.
    """

    name: str
    hard: bool
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.name} {self.seed}")

    def times(self, quick: int, hard: int) -> int:
        """How often to try."""
        return hard if self.hard else quick

    def note(self, kind: str, what: object = "", *, bad: bool = False) -> None:
        """Count what became of a try; where it must not be, the test fails at its end."""
        self.counts[kind] += 1
        if bad:
            self.failures.append(f"{kind}: {what}")


@pytest.fixture
def attack(request: pytest.FixtureRequest):
    """Counts what became of a test's tries; fails it if one ended as it must not."""
    option = request.config.getoption
    name = request.node.name.removeprefix("test_").replace("_", " ")
    made = Attack(name, option("--hard"), option("--seed"))
    yield made
    request.node.user_properties.append(("attack", (made.name, dict(made.counts))))
    assert not made.failures, "\n".join(made.failures[:20])


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """An output file for a call's text, beside nothing else."""
    return tmp_path / "calls" / "call.txt"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """With ``--hard``, print how many tries ended how."""
    config = terminalreporter.config
    if not config.getoption("--hard"):
        return
    rows = sorted(
        {
            tuple(map(str, (name, sum(counts.values()), counts)))
            for reports in terminalreporter.stats.values()
            for report in reports
            for key, (name, counts) in getattr(report, "user_properties", ())
            if key == "attack"
        }
    )
    terminalreporter.section(f"attacks, seed {config.getoption('--seed')}")
    for name, tries, counts in rows:
        terminalreporter.write_line(f"{name:50} {tries:>6}  {counts}")
