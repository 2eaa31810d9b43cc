"""A run's directory: its settings, and which steps are done."""

import hashlib
import json
import os
import platform
import shutil
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch
from accelerate import Accelerator
from rich.console import Console

from corellarec.base.artifacts import MANIFEST, link, read_manifest, write_text
from corellarec.base.console import Display, say_warnings
from corellarec.base.device import pick_device
from corellarec.base.errors import ArtifactError, ConfigError
from corellarec.config import Config, load_config, to_toml
from corellarec.data.preparation import Preparation
from corellarec.data.prepare import prepare
from corellarec.llm.lora import (
    TunedAdapter,
)
from corellarec.llm.template import load_template

CHEAP = {"distill", "cascade", "evaluate"}  # sections that a run may change


class Workspace:
    """The directory of a run.

    Args:
        config: What to do.
        directory: Where everything is written.
        console: Where progress goes.
        neighbours: Directory of other runs, whose finished steps are taken over where they are
            what this run would do again.
    """

    def __init__(
        self, config: Config, directory: Path, console: Console, neighbours: Path | None = None
    ) -> None:
        self.config, self.directory, self.neighbours = config, directory, neighbours
        self.accelerator = Accelerator(cpu=pick_device(config.device).type == "cpu")
        self.device = self.accelerator.device
        self.display = Display(console, quiet=not self.accelerator.is_main_process)

    @classmethod
    def open(cls, directory: Path, console: Console) -> Self:
        """The run in an existing directory, with the configuration it was made with.

        Raises:
            ArtifactError: If the directory is not that of a run.
        """
        return cls(load_run_config(directory), directory, console)

    def start(self) -> None:
        """Record the configuration.

        Where training has begun, only the sections ``CHEAP`` may differ: what they change is
        fitted again from stored scores, and no training is lost.

        Raises:
            ConfigError: If the directory was made with other settings.
        """
        path = self.directory / "config.toml"
        begun = path.exists() and any(self.directory.glob("stage*"))
        before = load_run_config(self.directory) if begun else self.config
        if before.model_dump(exclude=CHEAP) != self.config.model_dump(exclude=CHEAP):
            raise ConfigError(
                f"{self.directory} was made with other settings "
                f"({difference(before, self.config)}): use another --out, or --overwrite"
            )
        if self.accelerator.is_main_process:
            write_text(path, to_toml(self.config))
        self.accelerator.wait_for_everyone()

    def prepare(self) -> Preparation:
        """Prepare the log; returns what was counted."""
        with self.accelerator.main_process_first():
            facts = prepare(self.config.data, self.directory / "data")
        self.display.say(
            f"data: {facts.rows:,} rows, {facts.users:,} users, {facts.items:,} items, "
            f"{facts.positives:,} positives"
        )
        if facts.left_out_text:
            self.display.say(f"left out: {facts.left_out_text}")
        if not self.display.quiet:
            say_warnings(self.display.console, facts.warnings)
        return facts

    def done(self, directory: Path, key: str) -> dict[str, Any] | None:
        """The facts of a finished step of the same key, here or beside; None if there is none.

        Raises:
            ArtifactError: If it is there but damaged.
        """
        facts = step_facts(directory, key)
        if facts is None and self.neighbours:
            for other in sorted(self.neighbours.glob(f"*/{directory.relative_to(self.directory)}")):
                if step_facts(other, key) is not None:
                    link(other, directory)
                    return step_facts(directory, key)
        return facts

    def key(self, step: str, *more: Any) -> str:  # noqa: ANN401 (any JSON)
        """Hash of everything a step depends on: settings, data, and the steps before it."""
        config = self.config.model_dump(mode="json")
        names = {
            "stage1": ["seed", "crm", "stage1"],
            "stage2": ["llm", "align", "stage2"],
            "stage3": ["stage3"],
            "scores": [],
            "distill": ["distill"],
            "cascade": ["cascade"],
        }
        before = list(names)[: list(names).index(step) + 1]
        sections = [name for key in before for name in names[key]]
        if step == "scores" and self.adapter:  # no stage bears on it, and the seed draws the rows
            sections = ["llm", "seed"] if more[-1] else ["llm"]
        data = read_manifest(self.directory / "data", verify=False)["files"]
        parts = [data, *({name: config[name]} for name in sections), *more]
        if step != "stage1":
            parts.append(load_template(self.config.llm.template).model_dump(mode="json"))
            parts += [self.adapter.facts["files"]] if self.adapter else []
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def adapter(self) -> TunedAdapter | None:
        """The tuned adapter that is used as it is, if there is one."""
        name = self.config.llm.adapter
        return TunedAdapter(name) if name else None


def stage_seed(config: Config, number: int) -> int:
    """The seed of a stage's steps."""
    return config.seed * 10 + number


def load_run_config(directory: Path) -> Config:
    """The configuration a run was made with.

    Raises:
        ArtifactError: If the directory is not that of a run.
    """
    path = directory / "config.toml"
    if not path.is_file():
        raise ArtifactError(
            f"{directory} is no run (it has no config.toml): `corellarec run` makes one"
        )
    return load_config(files=[path])


def remove_run(directory: Path) -> None:
    """Delete a run's directory.

    Raises:
        ArtifactError: If it is the directory of something else.
    """
    if directory.exists():
        load_run_config(directory)
        shutil.rmtree(directory)


def step_facts(directory: Path, key: str) -> dict[str, Any] | None:
    """The facts of a finished step of the same key; None if it is not there.

    Raises:
        ArtifactError: If it is there but damaged.
    """
    if not (directory / MANIFEST).exists():
        return None
    facts = read_manifest(directory)
    return facts if facts.get("key") == key else None


def difference(before: Config, after: Config) -> str:
    """The first few settings that differ, as text; empty where none does."""

    def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        leaves = {}
        for name, value in tree.items():
            if isinstance(value, dict):
                leaves |= flat(value, f"{prefix}{name}.")
            else:
                leaves[prefix + name] = value
        return leaves

    old, new = flat(before.model_dump(mode="json")), flat(after.model_dump(mode="json"))
    changed = [
        f"{name} was {old[name]!r}, is {new[name]!r}" for name in new if old[name] != new[name]
    ]
    return "; ".join(changed[:3]) + (" ..." if len(changed) > 3 else "")


def versions() -> dict[str, str]:
    """What the figures were made with."""
    return {name: version(name) for name in ("corellarec", "torch", "transformers", "peft")}


def machine(device: torch.device) -> dict[str, Any]:
    """The device and the versions that made a figure."""
    name = platform.processor() or platform.machine()
    if device.type == "cpu":
        name = str(torch.cpu.get_capabilities().get("cpu_name", name))
    elif device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {"device": device.type, "name": name, "cores": os.cpu_count(), **versions()}
