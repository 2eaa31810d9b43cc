"""A study from its cells to its report."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from corellarec.base.artifacts import read_manifest, write_text
from corellarec.base.console import Display
from corellarec.config import Config
from corellarec.research.study.cells import cells, run_cell
from corellarec.research.study.measure import Measurement
from corellarec.research.study.page import render, to_markdown
from corellarec.research.study.spec import StudySpec
from corellarec.run.workspace import machine


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

    def everything(self) -> dict[str, Any]:
        """Train, score, measure, and write the report; returns the result."""
        self.train()
        with self.display.waiting("measuring, with bootstrap intervals"):
            result = self.measure()
        write_text(self.directory / "study.json", json.dumps(result, indent=1) + "\n")
        write_text(self.directory / "study.md", to_markdown(result))
        write_text(self.directory / "report.html", render(result))
        return result

    def train(self) -> None:
        """Train and score every cell."""
        for number, cell in enumerate(self.cells, 1):
            self.display.say(f"cell {number} of {len(self.cells)}: {cell.title}")
            run_cell(cell, self.console)

    def measure(self) -> dict[str, Any]:
        """The result of finished cells."""
        measurement = Measurement(self.cells, self.console)
        first = measurement.first.run
        data = read_manifest(first.directory / "data", verify=False)
        return {
            "name": self.directory.name.removeprefix("study-"),
            "spec": self.spec.model_dump(mode="json"),
            "config": self.base.model_dump(mode="json"),
            "machine": machine(first.device),
            "data": {name: data[name] for name in ("rows", "users", "items", "splits")},
            "cells": [
                {
                    "kind": cell.kind,
                    "name": cell.name,
                    "seed": cell.config.seed,
                    "seconds": cell.seconds(),
                }
                for cell in self.cells
            ],
            **measurement.everything(),
        }
