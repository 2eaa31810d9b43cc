"""A study from its cells to its report."""

from pathlib import Path
from typing import Any

from rich.console import Console

from corellarec.config import Config
from corellarec.display import Display
from corellarec.study.cells import cells, run_cell
from corellarec.study.spec import StudySpec


class Study:
    """A grid in its directory; what is done is not done again.

    Args:
        spec: What is run.
        base: The configuration that all of it starts from.
        directory: Where everything is written.
        console: Where progress goes.
    """

    def __init__(self, spec: StudySpec, base: Config, directory: Path, console: Console) -> None:
        self.spec, self.base, self.directory, self.console = spec, base, directory, console
        self.cells = cells(spec, base, directory)
        self.display = Display(console, quiet=False)

    def train(self) -> None:
        """Train and score every cell."""
        for number, cell in enumerate(self.cells, 1):
            self.display.say(f"cell {number} of {len(self.cells)}: {cell.title}")
            run_cell(cell, self.console)
