"""Seconds of training until a CRM has a given test AUC, for several of ours and FuxiCTR's DCNv2.

The clock runs from the prepared log on: it counts building the model and training, and stands still
while the test rows are scored. Every model is trained by its preset, with its own schedule, and is
scored several times an epoch.

    python benchmarks/crm_time_to_auc.py [--data PATH] [--preset NAME] [--target AUC]
        [--models a,b] [--epochs N] [--seeds N] [--no-peer] [--quick] [--json]

``--data ml-1m.zip --preset ml-1m --target 0.7965`` is DCNv2's own AUC on MovieLens-1M.
"""

import contextlib
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from fuxictr.pytorch.torch_utils import seed_everything

from corellarec.base import metrics
from corellarec.config import Config, load_config
from corellarec.crm.build import build_crm, build_reader
from corellarec.crm.score import crm_logits
from corellarec.data.log import Log
from corellarec.train.checkpoint import Progress
from corellarec.train.loop import train
from corellarec.train.stages import CrmTask
from harness import emit, parse, parser
from logs import add_data_option, add_set_option, data_settings, prepared_log
from peers import FuxiBatches, FuxiModel, columns_of, fuxi_feature_map

CPU = torch.device("cpu")
CHECKS = 4  # scorings in an epoch


class Reached(Exception):  # noqa: N818 (it is no error)
    """The model has the AUC."""


class Clock:
    """Time until the target, without the time in which the test rows are scored.

    Args:
        log: Its test rows are scored.
        target: The AUC.
    """

    def __init__(self, log: Log, target: float) -> None:
        self.rows, self.target = log.rows_of("test"), target
        self.label = log.test_labels(self.rows, "benchmark").numpy()
        self.points: list[tuple[float, float]] = []
        self.paused, self.start = 0.0, time.perf_counter()

    def check(self, logit: torch.Tensor, began: float) -> None:
        """Note the AUC of the test rows, whose scoring began at a time.

        Raises:
            Reached: If it is the target, or above.
        """
        auc = metrics.auc(self.label, metrics.sigmoid(logit.double().numpy()))
        seconds = began - self.start - self.paused
        self.points.append((seconds, auc))
        self.paused += time.perf_counter() - began
        if auc >= self.target:
            raise Reached

    def result(self) -> dict[str, Any]:
        """Seconds until the target, None where it was never met, and the AUC over time."""
        met = bool(self.points) and self.points[-1][1] >= self.target
        return {"seconds": self.points[-1][0] if met else None, "points": self.points}


class TimedTask(CrmTask):
    """Scores test rows where stage 1 would score validation rows; nothing is selected by it."""

    clock: Clock

    def validate(self) -> dict[str, float]:
        """The AUC of the test rows; the log loss is a constant, so that training goes on."""
        began = time.perf_counter()
        self.clock.check(crm_logits(self.model.crm, self.reader, self.log.samples(self.clock.rows)),
                         began)  # fmt: skip
        self.model.train()
        return {"crm_log_loss": 0.0}


def ours(log: Log, config: Config, seed: int, target: float) -> dict[str, Any]:
    """Stage 1 of one of our models."""
    clock = Clock(log, target)
    torch.manual_seed(seed)
    crm = build_crm(config.crm, log.features, CPU)
    task = TimedTask(crm, build_reader(config.crm, log, CPU), log, config.stage1, seed)
    task.clock = clock
    settings = config.stage1.model_copy(update={"evaluations": CHECKS, "patience": 10**6})
    with tempfile.TemporaryDirectory() as folder:
        progress = Progress(Path(folder), "benchmark")
        with contextlib.suppress(Reached):
            train(task, settings, progress=progress, seed=seed, accelerator=Accelerator(cpu=True))
    return clock.result()


def fuxictr(log: Log, config: Config, seed: int, target: float) -> dict[str, Any]:
    """FuxiCTR's DCNv2, by its own training step, with batches from memory."""
    length = config.crm.history_length
    train_columns, test_columns = (
        columns_of(log, log.rows_of(split), length) for split in ("train", "test")
    )
    clock = Clock(log, target)
    seed_everything(seed)
    with tempfile.TemporaryDirectory() as folder:
        model = FuxiModel("dcnv2", fuxi_feature_map(log, length, pooled=True), config.crm, folder)
        model._max_gradient_norm = 10.0
        batches = FuxiBatches(train_columns, config.stage1.batch_size, shuffle=True)
        with contextlib.suppress(Reached):
            for batch in _every(batches, config.stage1.epochs):
                if batch is not None:
                    model.train()
                    model.train_step(batch)
                    continue
                began = time.perf_counter()
                model.eval()
                with torch.inference_mode():
                    parts = FuxiBatches(test_columns, 4096, shuffle=False)
                    p = torch.cat([model(part)["y_pred"].squeeze(1) for part in parts])
                clock.check(p.double().logit(), began)
    return clock.result()


def _every(batches: FuxiBatches, epochs: int) -> Iterator[Any]:
    """All batches of some epochs, and None where the test rows are to be scored."""
    between = max(1, len(batches) // CHECKS)
    for _ in range(epochs):
        for number, batch in enumerate(batches, 1):
            yield batch
            if number % between == 0:
                yield None


def main() -> None:
    options = parser(__doc__)
    add_data_option(options)
    add_set_option(options)
    options.add_argument("--preset", default="ml-100k", help="the preset of the data")
    options.add_argument("--target", type=float, default=0.75, help="the test AUC")
    options.add_argument("--models", default="dcnv2,fibinet,stream", help="the preset's variants")
    options.add_argument("--epochs", type=int, default=5, help="epochs at most")
    options.add_argument("--seeds", type=int, default=3, help="number of seeds")
    options.add_argument("--no-peer", action="store_true", help="leave FuxiCTR's DCNv2 out")
    given = parse(options, quick={"seeds": 1})
    logging.disable(logging.INFO)
    settings = [*data_settings(given), f"stage1.epochs={given.epochs}", *given.set]
    _, log = prepared_log(settings, preset=given.preset)
    names = given.models.split(",")
    found: dict[str, list[dict[str, Any]]] = {}
    print(f"seconds of training until test AUC {given.target}")
    for seed in range(given.seeds):
        for name in [*names, *([] if given.no_peer else ["FuxiCTR dcnv2"])]:
            base = name.removeprefix("FuxiCTR ")
            config = load_config(preset=f"{given.preset}/{base}", settings=settings)
            run = ours if base == name else fuxictr
            found.setdefault(name, []).append(one := run(log, config, seed, given.target))
            best = max(auc for _, auc in one["points"])
            text = "never" if one["seconds"] is None else f"{one['seconds']:.1f} s"
            print(f"  seed {seed}  {name:16} {text:>9}, AUC {best:.4f}", flush=True)
    medians = {name: _median([one["seconds"] for one in runs]) for name, runs in found.items()}
    dcnv2, stream = medians.get("dcnv2"), medians.get("stream")
    emit(
        given,
        {"target": given.target, "median_seconds": medians, "runs": found},
        ratio=dcnv2 / stream if dcnv2 and stream else None,
        ratio_of="seconds to the AUC, DCNv2's over stream's",
    )


def _median(seconds: list[float | None]) -> float | None:
    met = [one for one in seconds if one is not None]
    return statistics.median(met) if len(met) == len(seconds) else None


if __name__ == "__main__":
    main()
