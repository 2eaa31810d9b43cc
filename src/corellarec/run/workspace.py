"""A run's directory: its settings, which steps are done, and the parts that steps share."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from rich.console import Console
from torch import Tensor

from corellarec.base.artifacts import link, read_manifest
from corellarec.base.console import Display
from corellarec.base.device import pick_device, pick_dtype
from corellarec.base.errors import ConfigError
from corellarec.base.lock import locked
from corellarec.base.processes import join_processes
from corellarec.config import Config, NetworkConfig
from corellarec.crm.batch import Reader
from corellarec.crm.build import network_reader
from corellarec.crm.external import external_logits
from corellarec.data.log import Log
from corellarec.data.statistics import STATISTICS
from corellarec.data.times import times_of
from corellarec.llm.layout import Layout, build_layout
from corellarec.llm.load import AnswerModel, load_model, load_tokenizer
from corellarec.llm.lora import TunedAdapter, add_adapter, load_adapter
from corellarec.llm.score import LlmScorer
from corellarec.llm.shard import shard
from corellarec.llm.template import load_template
from corellarec.run.records import (
    CONFIG,
    LOCK,
    difference,
    read_run_config,
    read_step,
    write_run_config,
)
from corellarec.run.status import final_step, why_skipped

STAGES = (1, 2, 3)
MEMBERS: dict[str, Any] = {"crm": {"members"}}
# What a finished run may change.
REFITTED: dict[str, Any] = (
    dict.fromkeys(("distill", "cascade", "evaluate"), True)
    | MEMBERS
    | {"data": {"memory_limit_mb"}}
)
KEYS = {
    "stage1": ["seed", "crm", "stage1"],
    "stage2": ["llm", "align", "stage2"],
    "stage3": ["stage3"],
    "scores": [],
    "distill": ["distill"],
    "cascade": ["cascade"],
}
"""Sections that each step depends on, beside those of the steps before it."""


class Workspace:
    """The directory of a run, and what its steps share.

    Steps are functions that take a workspace: :mod:`corellarec.run.steps` lists them.

    Args:
        config: What to do.
        directory: Where everything is written.
        console: Where progress goes.
        neighbours: Directory of other runs; their finished steps are linked where this run would
            compute the same.

    Attributes:
        accelerator: This process among those of ``torchrun``, or alone.
        device: Where models run.
        display: Lines and progress bars; silent in all processes but the main one.
    """

    def __init__(
        self, config: Config, directory: Path, console: Console, neighbours: Path | None = None
    ) -> None:
        self.config, self.directory, self.neighbours = config, directory, neighbours
        self.accelerator = join_processes(pick_device(config.device))
        self.device = self.accelerator.device
        self.display = Display(console, quiet=not self.accelerator.is_main_process)

    # The directory.

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes out of the directory.

        Raises:
            LockedError: If one works there.
        """
        if not self.accelerator.is_main_process:
            yield
            return
        with locked(self.directory / LOCK, f"the run in {self.directory}"):
            yield

    def start(self) -> None:
        """Record the configuration.

        Where training has begun, only the sections ``REFITTED`` may differ: what they change is
        computed again from stored scores, and no training is lost.

        Raises:
            ConfigError: If the directory was made with other settings.
        """
        begun = (self.directory / CONFIG).exists() and any(self.directory.glob("stage*"))
        before = read_run_config(self.directory) if begun else self.config
        if before.model_dump(exclude=REFITTED) != self.config.model_dump(exclude=REFITTED):
            raise ConfigError(
                f"{self.directory} was made with other settings "
                f"({difference(before, self.config)}): use another --out, or --overwrite; --resume "
                "without --preset and --config takes the run's own"
            )
        if self.accelerator.is_main_process:
            write_run_config(self.directory, self.config)
        self.accelerator.wait_for_everyone()

    def done(self, directory: Path, key: str) -> dict[str, Any] | None:
        """The manifest of a finished step with this key, here or in a neighbour; else None.

        Raises:
            ArtifactError: If it is there but damaged.
        """
        facts = read_step(directory, key)
        if facts is None and self.neighbours:
            for other in sorted(self.neighbours.glob(f"*/{directory.relative_to(self.directory)}")):
                if read_step(other, key) is not None:
                    link(other, directory)
                    return read_step(directory, key)
        return facts

    def key(self, step: str, *more: Any) -> str:  # noqa: ANN401 (any JSON)
        """Hash of everything a step depends on: settings, data, and the steps before it."""
        config = self.config.model_dump(mode="json", exclude=MEMBERS)
        before = list(KEYS)[: list(KEYS).index(step) + 1]
        sections = [name for key in before for name in KEYS[key]]
        read = self._read_by(self.config.crm)
        if step == "scores" and self.adapter:
            # No stage bears on it, nor the CRM. The seed draws the rows, but for those of test.
            sections = ["llm", "seed"] if more[-1] and more[0] != "test" else ["llm"]
            read = read[:1]
        parts = [read, *({name: config[name]} for name in sections), *more]
        if step != "stage1":
            parts.append(load_template(self.config.llm.template).model_dump(mode="json"))
            parts += [self.adapter.facts["files"]] if self.adapter else []
        return _digest(parts)

    def step_key(self, name: str) -> str:
        """The key of what trains: ``stage1`` to ``stage3``, ``member1``, ``distilled`` and on.

        ``distilled-member1`` is a further network, taught; ``members`` is how all networks of the
        CRM are blended.
        """
        taught, _, member = name.partition("-")
        if taught == "distilled":
            key = self.key("distill", self.config.cascade.validation_rows, "without a gate")
            return _digest([key, self.step_key(member)]) if member else key
        members = self.config.model_dump(mode="json")["crm"]["members"]
        if name == "members":
            return _digest([self.step_key(final_step(self.config, 0)), members, "shown to help"])
        if name.startswith("member"):
            number = int(name.removeprefix("member"))
            read = self._read_by(self.config.crm.networks[number])
            return _digest([read, self.config.seed + number, members[number - 1]])
        return self.key(name)

    def _read_by(self, network: NetworkConfig) -> list[Any]:
        """What a network is trained on: the prepared log's files, and statistics by name."""
        data = read_manifest(self.directory / "data", verify=False)["files"]
        reads = network.model == "stream" or network.statistics
        return [data, STATISTICS if reads else None]

    def trains(self, stage: int) -> bool:
        """Whether a stage (1, 2 or 3) is part of this run."""
        return not why_skipped(self.config, stage)

    @property
    def is_external(self) -> bool:
        """Whether the CRM is known by its scores alone."""
        return self.config.crm.model == "external"

    # Parts, each read or made once.

    @cached_property
    def log(self) -> Log:
        """The prepared log."""
        return Log.load(self.directory / "data")

    @cached_property
    def reader(self) -> Reader:
        """Builds the batches of the CRM's first network."""
        return network_reader(self.config.crm, self.log, self.device)

    @cached_property
    def external_logits(self) -> Tensor:
        """``(rows of the log,)`` the external CRM's logit of each row, NaN where it has none."""
        return external_logits(self.config.crm.external, self.log, times_of(self.config.data))

    @cached_property
    def adapter(self) -> TunedAdapter | None:
        """The tuned adapter that ``llm.adapter`` names."""
        name = self.config.llm.adapter
        return TunedAdapter(name) if name else None

    @cached_property
    def layout(self) -> Layout:
        """How samples become text; needs the tokenizer alone."""
        return build_layout(self.config.llm, self.log, load_tokenizer(self.config.llm.model))

    @cached_property
    def llm(self) -> AnswerModel:
        """The language model, with the adapter that ``llm.adapter`` names or a fresh one."""
        config, processes = self.config.llm, self.accelerator.num_processes
        divided = config.shard and processes > 1
        with self.display.waiting("loading the language model"):
            dtype = pick_dtype(config.dtype, self.device)
            place = torch.device("cpu") if divided else self.device
            model, _ = load_model(config.model, dtype, place)
            set_seed(self.config.seed)
            if self.adapter is None:
                adapted = add_adapter(model, config.lora)
            else:
                self.adapter.check(config, self.log)
                adapted = load_adapter(model, self.adapter.directory)
            if divided:
                shard(adapted, self.device, processes)
            return AnswerModel(
                adapted,
                self.layout.answers,
                config.checkpointing,
                negatives=self.layout.negatives,
            )

    @cached_property
    def scorer(self) -> LlmScorer:
        """Scores with the language model's present weights."""
        tokens = self.config.llm.tokens_per_batch
        return LlmScorer(self.llm, self.layout, tokens, self.accelerator)


def _digest(parts: Any) -> str:  # noqa: ANN401 (any JSON)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
