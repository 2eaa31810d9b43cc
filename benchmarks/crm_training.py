"""Training and scoring speed of our DCNv2 and DIN beside FuxiCTR's and DeepCTR-Torch's.

Same log, features, sizes and batch size, in one run; the models take turns, and medians of the
rounds count. FuxiCTR gets its batches from memory, which is faster than its own loader; it and
ours read the log's rows in random order. DeepCTR-Torch runs its own ``fit`` and ``predict``.
``stream`` has no peer there and stands beside our DCNv2, with and without its ridge regression. The
last part trains on a synthetic log of one million users and one million items, and then measures
the peak memory of ours alone, validations and checkpoints included.

    python benchmarks/crm_training.py [--data PATH] [--steps N] [--large N] [--rounds N] [--quick]
        [--json]

``--data`` is what ``data.path`` takes, such as ml-1m.zip; the default is MovieLens-100K, fetched.
"""

import argparse
import contextlib
import io
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn.functional import binary_cross_entropy_with_logits

from corellarec.config import CrmConfig, Stage1Config, load_config
from corellarec.crm.batch import CrmReader
from corellarec.crm.build import build_crm, build_reader
from corellarec.crm.model import Crm
from corellarec.crm.score import BATCH_SIZE
from corellarec.data.log import Log
from corellarec.train import loop
from corellarec.train.checkpoint import Progress
from corellarec.train.optimizer import LazyAdamW, clip_gradients
from corellarec.train.stages import CrmTask
from harness import emit, median_ratio, parse, parser, peak_memory_mb, take_turns
from logs import add_data_option, data_settings, prepared_log, synthetic_log
from peers import FuxiBatches, FuxiModel, columns_of, deepctr_model, fuxi_feature_map

CPU = torch.device("cpu")
BATCH, LENGTH, DIM = 1024, 20, 32
MODELS = {"dcnv2": "mean", "din": "attention"}


def settings(name: str, dtype: str = "auto") -> CrmConfig:
    """The same sizes for everybody, and labels alone, which is what peers read."""
    return load_config(
        settings=[
            f"crm.model={name}",
            f"crm.history={MODELS[name]}",
            f"crm.history_length={LENGTH}",
            f"crm.embedding_dim={DIM}",
            f"crm.dtype={dtype}",
            "crm.ratings=false",
        ]
    ).crm


class Trainer(Protocol):
    """A library's model on one log."""

    def train(self, steps: int) -> int:
        """Train some steps; returns the samples."""
        ...

    def score(self, steps: int) -> int:
        """Score about as many rows as so many training steps read; returns their number."""
        ...


class Ours:
    """Our model, reader and optimizer, a step at a time as the loop takes them."""

    def __init__(self, log: Log, config: CrmConfig) -> None:
        torch.manual_seed(0)
        self.log = log
        self.model = build_crm(config, log.features, CPU)
        self.reader = build_reader(config, log, CPU)
        self.optimizer = LazyAdamW(self.model.parameters(), lr=1e-3, fused=True)
        rows = log.rows_of("train")
        samples, generator = log.samples(rows), torch.Generator().manual_seed(0)
        self.parts = [rows[part] for part in self.reader.parts(samples, BATCH, generator)]
        self.in_order = [rows[part] for part in self.reader.parts(samples, BATCH_SIZE)]
        self.done = 0

    def train(self, steps: int) -> int:
        """Train some steps; returns the samples."""
        self.model.train()
        samples = 0
        for _ in range(steps):
            rows = self.parts[self.done % len(self.parts)]
            logit = self.model(self.reader(self.log.samples(rows))).logit
            binary_cross_entropy_with_logits(logit, self.log.labels(rows).float()).backward()
            clip_gradients(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.done += 1
            samples += len(rows)
        return samples

    def score(self, steps: int) -> int:
        """Score rows in the order of bulk scoring; returns their number."""
        self.model.eval()
        parts = self.in_order[: max(1, steps * BATCH // BATCH_SIZE)]
        with torch.inference_mode():
            for rows in parts:
                self.model(self.reader(self.log.samples(rows)))
        return sum(len(rows) for rows in parts)

    def shares(self, steps: int) -> dict[str, float]:
        """Shares of the time of a training step that its parts take."""
        spent = dict.fromkeys(("data", "embedding", "network", "optimizer"), 0.0)
        assert isinstance(self.model, Crm)
        self.model.train()
        encoder, network = self.model.encoder, self.model.network
        bf16 = self.model.dtype == torch.bfloat16
        for _ in range(steps):
            rows = self.parts[self.done % len(self.parts)]
            self.done += 1
            times = [time.perf_counter()]
            batch, label = self.reader(self.log.samples(rows)), self.log.labels(rows).float()
            times.append(time.perf_counter())
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                fields = encoder(batch)
                times.append(time.perf_counter())
                leaf = fields.detach().requires_grad_()
                logit = network(leaf.to(self.model.dtype)).logit.float()
            binary_cross_entropy_with_logits(logit, label).backward()
            times.append(time.perf_counter())
            fields.backward(leaf.grad)
            times.append(time.perf_counter())
            clip_gradients(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            times.append(time.perf_counter())
            parts = ("data", "embedding", "network", "embedding", "optimizer")
            for name, before, after in zip(parts, times, times[1:], strict=False):
                spent[name] += after - before
        whole = sum(spent.values())
        return {name: seconds / whole for name, seconds in spent.items()}


class Fuxi:
    """FuxiCTR's model and training step."""

    def __init__(
        self, log: Log, name: str, folder: str, steps: int, *, labels: bool = True
    ) -> None:
        torch.manual_seed(0)
        rows = log.rows_of("train")
        rows = rows[torch.randperm(len(rows))[: BATCH * steps]]
        columns = columns_of(log, rows, LENGTH, labels=labels)
        features = fuxi_feature_map(log, LENGTH, pooled=name == "dcnv2", labels=labels)
        self.model = FuxiModel(name, features, settings(name), folder)
        self.model._max_gradient_norm = 10.0
        self.batches = list(FuxiBatches(columns, BATCH, shuffle=True))
        self.larger = list(FuxiBatches(columns, 4 * BATCH, shuffle=False))

    def train(self, steps: int) -> int:
        """Train some steps; returns the samples."""
        self.model.train()
        batches = [self.batches[number % len(self.batches)] for number in range(steps)]
        for batch in batches:
            self.model.train_step(batch)
        return sum(len(batch["label"]) for batch in batches)

    def score(self, steps: int) -> int:
        """Score some rows; returns their number."""
        self.model.eval()
        parts = self.larger[: max(1, steps // 4)]
        with torch.inference_mode():
            for batch in parts:
                self.model(batch)
        return sum(len(batch["label"]) for batch in parts)


class DeepCtr:
    """DeepCTR-Torch's model, fitted and used by its own methods."""

    def __init__(self, log: Log, name: str, steps: int) -> None:
        torch.manual_seed(0)
        rows = log.rows_of("train")
        rows = rows[torch.randperm(len(rows))[: BATCH * steps]]
        columns = {key: value.numpy() for key, value in columns_of(log, rows, LENGTH).items()}
        self.label = columns.pop("label")
        columns["hist_item_id"] = columns.pop("history")
        columns["length"] = (columns["hist_item_id"] > 0).sum(1).clip(min=1)
        self.columns = columns
        self.model = deepctr_model(name, log, LENGTH, settings(name))

    def train(self, steps: int) -> int:
        """Fit some steps' rows; returns their number."""
        count = steps * BATCH
        part = {name: column[:count] for name, column in self.columns.items()}
        with contextlib.redirect_stdout(io.StringIO()):
            self.model.fit(part, self.label[:count], batch_size=BATCH, epochs=1, verbose=0)
        return len(self.label[:count])

    def score(self, steps: int) -> int:
        """Predict some rows; returns their number."""
        count = steps * BATCH
        part = {name: column[:count] for name, column in self.columns.items()}
        return len(self.model.predict(part, batch_size=4 * BATCH))


def rates(
    runs: Mapping[str, Callable[[int], int]], rounds: int, steps: int
) -> dict[str, list[float]]:
    """Samples a second of each in each round."""
    for run in runs.values():
        run(4)

    def rate(run: Callable[[int], int]) -> float:
        start = time.perf_counter()
        samples = run(steps)
        return samples / (time.perf_counter() - start)

    ways = {name: lambda run=run: rate(run) for name, run in runs.items()}
    return take_turns(ways, rounds, warm_up=False)


def gemm_rate(dtype: torch.dtype) -> float:
    """The machine's GFLOP/s in products of 2,048 x 2,048 matrices."""
    matrix, best = torch.randn(2048, 2048).to(dtype), 0.0
    for _ in range(10):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        best = max(best, 2 * 2048**3 / (time.perf_counter() - start) / 1e9)
    return best


def flops(model: torch.nn.Module, length: int) -> float:
    """Floating-point operations of the linear layers in training one sample."""
    found = 0
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            times = length if ".score.row" in name or ".score.out" in name else 1
            found += 2 * module.in_features * module.out_features * times
    return 3.0 * found


def large_log(entities: int) -> Log:
    """A synthetic log of as many users and as many items, with 0.4 rows each."""
    generator, rows = np.random.default_rng(0), 2 * entities // 5
    user = np.sort(generator.integers(0, entities, rows))
    item = generator.integers(0, entities, rows)
    return synthetic_log(user, item, users=entities, items=entities)


def large_memory_mb(entities: int) -> float:
    """Peak memory of training on :func:`large_log`, validations and checkpoints included."""
    log = large_log(entities)
    config = Stage1Config(epochs=1, evaluations=2)
    model = build_crm(settings("dcnv2"), log.features, CPU)
    task = CrmTask(model, CrmReader(log, LENGTH, CPU, ratings=False), log, config, 0)
    loop.CHECKPOINT_SECONDS = 5.0
    with tempfile.TemporaryDirectory() as folder:
        progress = Progress(Path(folder) / "progress", "benchmark")
        loop.train(task, config, progress=progress, seed=0, accelerator=Accelerator(cpu=True))
    return peak_memory_mb()


def show(title: str, speed: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    """Print and return the medians of the rates, and of the ratios of ours to each peer's."""
    medians = {name: statistics.median(values) for name, values in speed.items()}
    ratios = {name: median_ratio(speed["corellarec"], values) for name, values in speed.items()}
    print(f"\n{title}")
    for name, rate in medians.items():
        print(f"  {name:22} {rate:12,.0f} samples/s   ours is {ratios[name]:5.2f} times that")
    return {"samples_per_second": medians, "ratios": ratios}


def compare(
    log: Log, name: str, folder: str, gemm: Mapping[str, float], given: argparse.Namespace
) -> dict[str, Any]:
    """Rates of one model in all libraries, and where the time of ours goes."""
    ours = Ours(log, settings(name))
    runs: dict[str, Trainer] = {
        "corellarec": ours,
        "corellarec in fp32": Ours(log, settings(name, "float32")),
        "FuxiCTR": Fuxi(log, name, folder, given.steps),
        "DeepCTR-Torch": DeepCtr(log, name, given.steps),
    }
    found: dict[str, Any] = {}
    for kind in ("train", "score"):
        speed = rates(
            {label: getattr(run, kind) for label, run in runs.items()}, given.rounds, given.steps
        )
        found[kind] = show(f"{name}, {kind}", speed)
    shares = ours.shares(given.steps)
    rate = found["train"]["samples_per_second"]["corellarec"] * flops(ours.model, LENGTH) / 1e9
    print("  time: " + ", ".join(f"{part} {share:.0%}" for part, share in shares.items()))
    print(
        f"  {rate:.0f} GFLOP/s in linear layers: "
        + ", ".join(f"{rate / of:.0%} of {kind}'s {of:.0f}" for kind, of in gemm.items())
    )
    return found | {"shares": shares, "gflops": rate}


def compare_stream(log: Log, given: argparse.Namespace) -> dict[str, Any]:
    """Rates of ``stream`` with default settings and without ridge regression, and of our DCNv2."""
    stream = "crm.model=stream"
    runs = {
        "corellarec": Ours(log, load_config(settings=[stream]).crm),
        "without ridge": Ours(log, load_config(settings=[stream, "crm.stream.ridge=0"]).crm),
        "DCNv2": Ours(log, settings("dcnv2")),
    }
    found: dict[str, Any] = {}
    for kind in ("train", "score"):
        ways = {label: getattr(run, kind) for label, run in runs.items()}
        found[kind] = show(f"stream, {kind}", rates(ways, given.rounds, given.steps))
    return found


def compare_large(folder: str, given: argparse.Namespace) -> dict[str, Any]:
    """Training rates on :func:`large_log`, and the peak memory of ours."""
    log = large_log(given.large)
    runs = {
        "corellarec": Ours(log, settings("dcnv2")).train,
        "FuxiCTR": Fuxi(log, "dcnv2", folder, given.steps, labels=False).train,
    }
    title = f"dcnv2, train, {given.large:,} users and {given.large:,} items"
    found: dict[str, Any] = show(title, rates(runs, max(1, given.rounds // 2), 6))
    done = subprocess.run(
        [sys.executable, __file__, "--memory-of", str(given.large)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    memory = float(done.stdout.split()[-1])
    print(f"  peak memory of ours, in a process of its own: {memory:,.0f} MiB")
    return found | {"memory_mb": memory}


def main() -> None:
    options = parser(__doc__, rounds=5)
    add_data_option(options)
    options.add_argument("--steps", type=int, default=60, help="training steps in a round")
    options.add_argument(
        "--large", type=int, default=1_000_000, help="users, and items, of the synthetic log"
    )
    options.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    given = parse(options, quick={"rounds": 3, "steps": 10, "large": 100_000})
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore")
    if given.memory_of:
        print(large_memory_mb(given.memory_of))
        return
    _, log = prepared_log(data_settings(given))
    gemm = {kind: gemm_rate(getattr(torch, kind)) for kind in ("float32", "bfloat16")}
    found: dict[str, Any] = {"gemm_gflops": gemm}
    with tempfile.TemporaryDirectory() as folder:
        found |= {name: compare(log, name, folder, gemm, given) for name in MODELS}
        found["stream"] = compare_stream(log, given)
        found["large"] = compare_large(folder, given)
    emit(
        given,
        found,
        ratio=min(found[name]["train"]["ratios"]["FuxiCTR"] for name in MODELS),
        ratio_of="training samples/s of ours over FuxiCTR's, the lower of DCNv2 and DIN",
    )


if __name__ == "__main__":
    main()
