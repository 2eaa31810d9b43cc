"""A study from its cells to its report."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from corellarec.base.artifacts import write_text
from corellarec.base.console import Display
from corellarec.config import Config
from corellarec.evaluation.page import to_markdown
from corellarec.evaluation.parts import CellFacts
from corellarec.evaluation.results import StudyResult
from corellarec.research.study.answers import study_scores
from corellarec.research.study.cells import cells, run_cell
from corellarec.research.study.measure import measure
from corellarec.research.study.spec import StudySpec


class Study:
    """A grid in its directory; what is done is not done again.

    Args:
        spec: What is run.
        base: The configuration that all of it starts from.
        directory: Where everything is written.
        console: Where progress goes.

    Raises:
        ConfigError: If a cell's settings are not allowed.
    """

    def __init__(self, spec: StudySpec, base: Config, directory: Path, console: Console) -> None:
        self.spec, self.base, self.directory, self.console = spec, base, directory, console
        self.cells = cells(spec, base, directory)
        self.display = Display(console, quiet=False)

    def run(self) -> StudyResult:
        """Train, score, measure, and write the report; returns the result."""
        self.train()
        with self.display.waiting("measuring, with bootstrap intervals"):
            result = self.measure()
        result.save(self.directory / "study.json")
        result.save(self.directory / "report.html")
        write_text(self.directory / "study.md", to_markdown(result))
        return result

    def train(self) -> None:
        """Train and score every cell."""
        for number, cell in enumerate(self.cells, 1):
            self.display.say(f"cell {number} of {len(self.cells)}: {cell.title}")
            run_cell(cell, self.console)

    def measure(self) -> StudyResult:
        """The result of finished cells."""
        scores = study_scores(self.cells, self.console)
        result = measure(self.directory.name.removeprefix("study-"), self.spec, scores)
        data, where = scores.first.facts()
        return replace(
            result,
            settings=self.base.model_dump(mode="json"),
            machine=where,
            data=data,
            cells=tuple(
                CellFacts(cell.kind, cell.name, cell.config.seed, cell.seconds())
                for cell in self.cells
            ),
        )
