"""What the baselines share: a directory, rows, training, and figures on the test split."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
from rich.console import Console
from torch import Tensor

from corellarec.base import metrics
from corellarec.base.artifacts import (
    read_json,
    read_manifest,
    read_sealed,
    to_tree,
    write_sealed,
)
from corellarec.base.bootstrap import Bootstrap, interval
from corellarec.base.errors import ConfigError
from corellarec.base.machine import Machine, machine
from corellarec.config import Config, StageConfig
from corellarec.data.files import write_table
from corellarec.data.log import Samples
from corellarec.evaluation.parts import Figure
from corellarec.llm.template import load_template
from corellarec.run.prepare import prepare_log
from corellarec.run.records import difference, read_run_config, write_run_config
from corellarec.run.scores import rows_to_score
from corellarec.run.stages import train_into
from corellarec.run.workspace import REFITTED, Workspace
from corellarec.train.loop import State, Task
from corellarec.train.stages import draw_rows, take

METRICS = ("auc", "log_loss", "accuracy")


class Trained(NamedTuple):
    """A baseline that can answer.

    Args:
        logits: Maps samples, and a function that is told of answers, to ``(n,)`` fp32 logits.
        model: What answers, in words.
        rows: Training rows the language model saw.
        seconds: Time of training.
        validation_log_loss: Of the weights that were picked.
    """

    logits: Callable[[Samples, Callable[[int], None]], Tensor]
    model: str
    rows: int
    seconds: float
    validation_log_loss: float


@dataclass(frozen=True)
class BaselineResult:
    """A baseline's figures on the test rows.

    Args:
        baseline: Its name.
        asked_rows, asked_model: What was asked for beside the settings.
        model: What answers, in words.
        directory: Where it lies.
        machine: What the figures were made with.
        rows: Training rows the language model saw.
        seconds: Time of training.
        validation_log_loss: Of the weights that were picked.
        test_rows, split_rows, test_users: Rows measured, rows of the split, users measured.
        test: AUC, log loss and accuracy, by name, with 95 % intervals.
        ms_per_sample: Time of scoring.
        config: All settings.
        key: Identifies what was made.
    """

    baseline: str
    asked_rows: int | Literal["all"]
    asked_model: str | None
    model: str
    directory: str
    machine: Machine
    rows: int
    seconds: float
    validation_log_loss: float
    test_rows: int
    split_rows: int
    test_users: int
    test: dict[str, Figure]
    ms_per_sample: float
    config: dict[str, Any]
    key: str


class Experiment:
    """One baseline in its directory.

    Args:
        config: Settings, as of a run.
        name: The baseline's.
        rows: Training rows for the language model.
        model: The model given for it alone, if any.
        directory: Where everything is written.
        console: Where progress goes.
    """

    def __init__(
        self,
        config: Config,
        name: str,
        rows: int | Literal["all"],
        model: str | None,
        directory: Path,
        console: Console,
    ) -> None:
        self.workspace = Workspace(config, directory, console)
        self.rows: int | Literal["all"] = rows
        self.name, self.model, self.directory = name, model, directory

    @property
    def asked(self) -> dict[str, Any]:
        """What was asked for beside the settings."""
        return {"baseline": self.name, "rows": self.rows, "model": self.model}

    def start(self) -> None:
        """Record what is asked for, and prepare the log.

        Where training has begun, only the sections ``REFITTED`` may differ from before.

        Raises:
            ConfigError: If the directory holds something else, or was made with other settings.
        """
        config, path = self.workspace.config, self.directory / "asked.json"
        if path.exists() and self._begun():
            before = json.loads(read_sealed(path, f"delete {path} and run again"))
            old = read_run_config(self.directory)
            changed = [
                f"{k} was {before.get(k)!r}, is {v!r}"
                for k, v in self.asked.items()
                if before.get(k) != v
            ]
            if old.model_dump(exclude=REFITTED) != config.model_dump(exclude=REFITTED):
                changed.append(difference(old, config))
            if changed:
                raise ConfigError(
                    f"{self.directory} was made with other settings ({'; '.join(changed)}): use "
                    "another --out"
                )
        elif not path.exists() and (self.directory / "config.toml").exists():
            raise ConfigError(f"{self.directory} holds a run, not a baseline: use another --out")
        if self.workspace.accelerator.is_main_process:
            write_run_config(self.directory, config)
            write_sealed(path, json.dumps(self.asked, indent=1) + "\n")
        self.workspace.accelerator.wait_for_everyone()
        prepare_log(self.workspace)

    def _begun(self) -> bool:
        parts = (*self.directory.glob("*.progress"), *self.directory.glob("*/model.safetensors"))
        return bool(parts)

    def key(self, *more: Any) -> str:  # noqa: ANN401 (any JSON)
        """Hash of everything the training depends on, and of what is given."""
        config = self.workspace.config
        data = read_manifest(self.directory / "data", verify=False)["files"]
        template = load_template(config.llm.template).model_dump(mode="json")
        parts = [
            self.asked,
            config.model_dump(mode="json", exclude=REFITTED),
            template,
            data,
            *more,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def drawn(self, split: str, count: int | Literal["all"], chunk: int = 1) -> Tensor:
        """Random rows of a split, drawn as chunks of one user's; ascending."""
        if count == "all":
            return self.workspace.log.rows_of(split)
        return take(draw_rows(self.workspace.log, split, chunk, self.workspace.config.seed), count)[
            0
        ]

    def train(
        self, part: str, what: str, make_task: Callable[[], Task], settings: StageConfig
    ) -> State:
        """Train a part into the directory of its name, or find it done."""
        return train_into(
            self.workspace,
            self.directory / part,
            self.key(part),
            make_task,
            settings,
            title=f"{self.name}, {part}: {what}",
            seed=self.workspace.config.seed,
        )

    def done(self) -> "BaselineResult | None":
        """The result, if it is there and made with the same settings.

        Raises:
            ArtifactError: If it is damaged.
        """
        path = self.directory / "baseline.json"
        if not path.exists():
            return None
        found = read_result(self.directory)
        return found if found.key == self._result_key() else None

    def measure(self, trained: Trained) -> "BaselineResult | None":
        """Score the test rows, and write ``scores.parquet`` and ``baseline.json``.

        The rows, the metrics and the resampled users are those of a run of the same settings.
        Processes share the scoring; the first writes the result, and the others return None.
        """
        run, config = self.workspace, self.workspace.config.evaluate
        rows = rows_to_score(run, "test", config.test_rows)
        start = time.perf_counter()
        title = f"{self.name} scores {len(rows):,} test rows"
        with run.display.counting(title, len(rows)) as answered:
            logit = trained.logits(run.log.samples(rows), answered)
        seconds = time.perf_counter() - start
        if not run.accelerator.is_main_process:
            return None
        table = pl.DataFrame({"row": rows.numpy(), "logit": logit.numpy()})
        write_table(table, self.directory / "scores.parquet")
        user = run.log.user[rows].long().numpy()
        label = run.log.test_labels(rows, self.name).numpy()
        p = metrics.sigmoid(logit.double().numpy())
        bootstrap = Bootstrap(user, config.bootstrap, run.config.seed)
        metrics_found = {}
        for name in METRICS:
            low, high = interval(bootstrap(name, label, p))
            metrics_found[name] = _figure(metrics.METRICS[name](label, p), low, high)
        result = BaselineResult(
            baseline=self.name,
            asked_rows=self.rows,
            asked_model=self.model,
            model=trained.model,
            directory=str(self.directory),
            machine=machine(run.device),
            rows=trained.rows,
            seconds=trained.seconds,
            validation_log_loss=trained.validation_log_loss,
            test_rows=len(rows),
            split_rows=len(run.log.rows_of("test")),
            test_users=len(np.unique(user)),
            test=metrics_found,
            ms_per_sample=1e3 * seconds / max(1, len(rows)),
            config=run.config.model_dump(mode="json"),
            key=self._result_key(),
        )
        text = json.dumps(to_tree(result), indent=1) + "\n"
        write_sealed(self.directory / "baseline.json", text)
        return result

    def _result_key(self) -> str:
        return self.key(self.workspace.config.evaluate.model_dump(mode="json"))


def read_result(directory: Path) -> BaselineResult:
    """The result of a baseline.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    path = directory / "baseline.json"
    read_sealed(path, f"delete {path} and run again")
    return read_json(path, BaselineResult)


def _figure(value: float, low: float, high: float) -> Figure:
    return Figure(value, low, high, smallest=value, largest=value)
