"""The cells of a study: each one run, CRM or baseline in a directory of its own."""

import hashlib
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from corellarec.base.artifacts import read_sealed, write_sealed
from corellarec.base.errors import ConfigError
from corellarec.config import Config, changed, load_config
from corellarec.research.baselines.run import run_baseline
from corellarec.research.study.spec import StudySpec
from corellarec.run.members import blend_members
from corellarec.run.prepare import prepare_log
from corellarec.run.scores import score
from corellarec.run.stages import train_stage
from corellarec.run.steps import train_models
from corellarec.run.workspace import REFITTED, Workspace

Kind = Literal["method", "crm", "llm", "ablation", "baseline", "distilled"]
MAIN = "CoReLLa"


@dataclass(frozen=True)
class Cell:
    """One thing that is trained and that scores the test rows.

    Args:
        kind: What it is in the study.
        name: Its name within its kind.
        config: Its settings.
        directory: Where it is kept; the name holds a hash of the settings.
        options: What a baseline takes beside settings.
    """

    kind: Kind
    name: str
    config: Config
    directory: Path
    options: dict[str, Any]

    @property
    def title(self) -> str:
        """The cell in words."""
        return f"{self.kind} {self.name}, seed {self.config.seed}"

    def open(self, console: Console) -> Workspace:
        """The run of the cell; it takes over finished steps of the cells beside it."""
        return Workspace(self.config, self.directory, console, neighbours=self.directory.parent)

    def seconds(self) -> float | None:
        """Seconds that its work took, once it is done; None before."""
        path = self.directory / "cell.json"
        if not path.exists():
            return None
        return json.loads(read_sealed(path, f"delete {path} and run again"))["seconds"]


def cells(spec: StudySpec, base: Config, directory: Path) -> list[Cell]:
    """All cells of a study, those first that others take steps over from.

    Args:
        spec: The study.
        base: The configuration that all cells start from.
        directory: Of the study.

    Raises:
        ConfigError: If a cell's settings are not allowed.
    """
    found = []

    def add(kind: Kind, name: str, config: Config, **options: Any) -> None:  # noqa: ANN401 (JSON)
        path = directory / "cells" / _directory_name(kind, name, config, options)
        found.append(Cell(kind, name, config, path, options))

    own = [name for name in spec.crms if name.rpartition("/")[2] == base.crm.model]
    if own:
        raise ConfigError(f"crms: {own[0]} is the method's own CRM, which is compared as it is")
    for seed in spec.seeds:
        seeded = changed(base, {"seed": seed})
        add("method", MAIN, seeded)
        for name in spec.crms:
            add("crm", name.rpartition("/")[2], _crm_alone(seeded, load_config(preset=name)))
        for name, settings in spec.llms.items():
            add("llm", name, changed(seeded, settings))
        if spec.distill:
            add("distilled", MAIN, changed(seeded, {"distill": spec.distill}))
    first = changed(base, {"seed": spec.seeds[0]})
    for name, settings in spec.ablation.items():
        add("ablation", name, changed(first, settings))
    for name, settings in spec.baselines.items():
        options = {key: settings[key] for key in ("rows", "model") if key in settings}
        rest = {key: value for key, value in settings.items() if key not in options}
        add("baseline", name, changed(first, rest), **options)
    return found


def _crm_alone(base: Config, preset: Config) -> Config:
    """The base's data with a preset's CRM, and no other stage; nothing else matters for it.

    Whether it reads ratings is the base's, too, so that all CRMs know the same.
    """
    crm = preset.crm.model_copy(update={"ratings": base.crm.ratings})
    alone = Config(
        seed=base.seed, device=base.device, data=base.data, crm=crm, stage1=preset.stage1
    )
    return changed(alone, {"stage2": {"rows": 0}, "stage3": {"rows": 0}})


def _directory_name(kind: str, name: str, config: Config, options: dict[str, Any]) -> str:
    """A name a person can read, and a hash of everything that is trained."""
    facts = json.dumps(
        [kind, name, config.model_dump(mode="json", exclude=REFITTED), options], sort_keys=True
    )
    words = re.sub(r"[^a-z0-9]+", "-", f"{kind} {name} {config.seed}".lower()).strip("-")
    return f"{words}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"


def run_cell(cell: Cell, console: Console) -> None:
    """Train and score what is not yet there."""
    start = time.perf_counter()
    if cell.kind == "baseline":
        rows = cell.options.get("rows")
        run_baseline(
            cell.name,
            cell.config,
            rows=None if rows is None else str(rows),
            model=cell.options.get("model"),
            directory=cell.directory,
            console=console,
        )
    else:
        run = cell.open(console)
        with run.alone():
            run.start()
            prepare_log(run)
            if cell.kind == "crm":
                train_stage(run, 1)
            else:
                train_models(run)
                blend_members(run)
                score(run, "validation", cell.config.cascade.validation_rows)
                score(run, "test", cell.config.evaluate.test_rows)
    seconds = (cell.seconds() or 0.0) + time.perf_counter() - start
    write_sealed(cell.directory / "cell.json", json.dumps({"seconds": seconds}, indent=1) + "\n")
