"""What the baselines share: a directory, rows, training, and figures on the test split."""

import hashlib
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
from rich.console import Console
from torch import Tensor

from corellarec.base import metrics
from corellarec.base.artifacts import read_manifest, write_text
from corellarec.base.bootstrap import Bootstrap, interval
from corellarec.base.errors import ArtifactError, ConfigError
from corellarec.config import Config, StageConfig, to_toml
from corellarec.data.files import write_table
from corellarec.data.log import Samples
from corellarec.llm.template import load_template
from corellarec.run.run import Run
from corellarec.run.workspace import CHEAP, difference, load_run_config, machine
from corellarec.train.loop import Task
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
        self.run = Run(config, directory, console)
        self.rows: int | Literal["all"] = rows
        self.name, self.model, self.directory = name, model, directory

    @property
    def asked(self) -> dict[str, Any]:
        """What was asked for beside the settings."""
        return {"baseline": self.name, "rows": self.rows, "model": self.model}

    def start(self) -> None:
        """Record what is asked for, and prepare the log.

        Where training has begun, only the sections ``CHEAP`` may differ from before.

        Raises:
            ConfigError: If the directory holds something else, or was made with other settings.
        """
        config, path = self.run.config, self.directory / "asked.json"
        if path.exists() and self._begun():
            before, old = json.loads(path.read_text("utf-8")), load_run_config(self.directory)
            changed = [
                f"{k} was {before.get(k)!r}, is {v!r}"
                for k, v in self.asked.items()
                if before.get(k) != v
            ]
            if old.model_dump(exclude=CHEAP) != config.model_dump(exclude=CHEAP):
                changed.append(difference(old, config))
            if changed:
                raise ConfigError(
                    f"{self.directory} was made with other settings ({'; '.join(changed)}): use "
                    "another --out"
                )
        elif not path.exists() and (self.directory / "config.toml").exists():
            raise ConfigError(f"{self.directory} holds a run, not a baseline: use another --out")
        if self.run.accelerator.is_main_process:
            write_text(self.directory / "config.toml", to_toml(config))
            write_text(path, json.dumps(self.asked) + "\n")
        self.run.accelerator.wait_for_everyone()
        self.run.prepare()

    def _begun(self) -> bool:
        parts = (*self.directory.glob("*.progress"), *self.directory.glob("*/model.safetensors"))
        return bool(parts)

    def key(self, *more: Any) -> str:  # noqa: ANN401 (any JSON)
        """Hash of everything the training depends on, and of what is given."""
        config = self.run.config
        data = read_manifest(self.directory / "data", verify=False)["files"]
        template = load_template(config.llm.template).model_dump(mode="json")
        parts = [self.asked, config.model_dump(mode="json", exclude=CHEAP), template, data, *more]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def drawn(self, split: str, count: int | Literal["all"], chunk: int = 1) -> Tensor:
        """Random rows of a split, drawn as chunks of one user's; ascending."""
        if count == "all":
            return self.run.log.rows_of(split)
        return take(draw_rows(self.run.log, split, chunk, self.run.config.seed), count)[0]

    def train(
        self, part: str, what: str, make_task: Callable[[], Task], settings: StageConfig
    ) -> dict[str, Any]:
        """Train a part into the directory of its name, or find it done; returns its facts."""
        return self.run.train_into(
            self.directory / part,
            self.key(part),
            make_task,
            settings,
            title=f"{self.name}, {part}: {what}",
            seed=self.run.config.seed,
        )

    def done(self) -> dict[str, Any] | None:
        """The result, if it is there and still what is asked for.

        Raises:
            ArtifactError: If it is damaged.
        """
        path = self.directory / "baseline.json"
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ArtifactError(f"{path} is damaged: delete it and run again") from error
        return found if found["key"] == self._result_key() else None

    def measure(self, trained: Trained) -> dict[str, Any]:
        """Score the test rows, and write ``scores.parquet`` and ``baseline.json``.

        The rows, the metrics and the resampled users are those of a run of the same settings.
        """
        run, config = self.run, self.run.config.evaluate
        rows = self.drawn("test", config.test_rows or "all", run.chunk)
        start = time.perf_counter()
        title = f"{self.name} scores {len(rows):,} test rows"
        with run.display.counting(title, len(rows)) as answered:
            logit = trained.logits(run.log.samples(rows), answered)
        seconds = time.perf_counter() - start
        table = pl.DataFrame({"row": rows.numpy(), "logit": logit.numpy()})
        write_table(table, self.directory / "scores.parquet")
        user = run.log.user[rows].long().numpy()
        label = run.log.test_labels(rows, self.name).numpy()
        p = metrics.sigmoid(logit.double().numpy())
        bootstrap = Bootstrap(user, config.bootstrap, run.config.seed)
        test: dict[str, Any] = {
            "rows": len(rows),
            "split_rows": len(run.log.rows_of("test")),
            "users": len(np.unique(user)),
        }
        for name in METRICS:
            of = metrics.METRICS[name]
            low, high = interval(bootstrap(name, label, p))
            test[name] = {"value": of(label, p), "low": low, "high": high}
        result = {
            "corellarec": version("corellarec"),
            **self.asked,
            "model": trained.model,
            "directory": str(self.directory),
            "machine": machine(run.device),
            "rows": trained.rows,
            "seconds": trained.seconds,
            "validation_log_loss": trained.validation_log_loss,
            "test": test,
            "ms_per_sample": 1e3 * seconds / max(1, len(rows)),
            "config": run.config.model_dump(mode="json"),
            "key": self._result_key(),
        }
        write_text(self.directory / "baseline.json", json.dumps(result, indent=1) + "\n")
        return result

    def _result_key(self) -> str:
        return self.key(self.run.config.evaluate.model_dump(mode="json"))
