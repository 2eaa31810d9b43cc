"""A study from its cells to its report."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from corellarec.base.artifacts import write_text
from corellarec.base.console import Display
from corellarec.base.ray import on_ray
from corellarec.config import Config
from corellarec.evaluation.page import to_markdown
from corellarec.evaluation.parts import CellFacts
from corellarec.evaluation.results import StudyResult
from corellarec.research.study.answers import study_scores
from corellarec.research.study.cells import Cell, cells, run_cell
from corellarec.research.study.measure import measure
from corellarec.research.study.spec import StudySpec
from corellarec.run.prepare import prepare_log


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

    def run(self, workers: int = 0) -> StudyResult:
        """Train, score, measure, and write the report; returns the result.

        Args:
            workers: Actors of Ray that share the cells; 0 runs them here, one after the other.
        """
        if workers:
            self.train_on_ray(workers)
        else:
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

    def train_on_ray(self, workers: int) -> None:
        """Train and score all cells on actors: those first that others take steps over from.

        Args:
            workers: Actors; every node sees this directory and the data under the same names.
        """
        first = self.cells[0].open(self.console)
        with first.alone():
            first.start()
            prepare_log(first)  # which the other cells take over
        own = [cell for cell in self.cells if cell.kind in ("method", "crm")]
        others = [cell for cell in self.cells if cell not in own]
        done = 0
        with on_ray(partial(_CellRunner, Path.cwd()), min(workers, len(self.cells))) as mapped:
            for wave in (own, others):
                for title in mapped(wave):
                    done += 1
                    self.display.say(f"cell {done} of {len(self.cells)}: {title}")

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


class _CellRunner:
    """Runs cells in an actor."""

    def __init__(self, directory: Path) -> None:
        os.chdir(directory)  # paths may be relative

    def __call__(self, cell: Cell) -> str:
        run_cell(cell, Console(quiet=True))
        return cell.title
