"""Training and scoring speed of our DCNv2 and DIN beside FuxiCTR's and DeepCTR-Torch's.

Same log, features, sizes and batch size, in one run; the models take turns, and the best of the
rounds counts. FuxiCTR gets its batches from memory, which is faster than its own loader; it and
ours read the log's rows in random order. DeepCTR-Torch runs its own ``fit`` and ``predict``. The
second part trains on a synthetic log of one million users and one million items.

    python benchmarks/crm_training.py [--data PATH] [--rounds N] [--json]

``--data`` is what ``data.path`` takes, such as ml-1m.zip; the default is MovieLens-100K, fetched.
"""

import argparse
import contextlib
import io
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from accelerate import Accelerator
from deepctr_torch.models import DCN, DIN
from torch.nn.functional import binary_cross_entropy_with_logits

from corellarec.config import CrmConfig, Stage1Config, load_config
from corellarec.crm.batch import CrmReader
from corellarec.crm.build import build_crm
from corellarec.crm.model import Crm
from corellarec.crm.score import BATCH_SIZE
from corellarec.data.log import FeatureLayout, Features, Log
from corellarec.data.prepare import prepare
from corellarec.train import loop
from corellarec.train.checkpoint import Progress
from corellarec.train.optimizer import LazyAdamW, clip_gradients
from corellarec.train.stages import CrmTask
from peers import FuxiBatches, FuxiModel, columns_of, deepctr_columns, fuxi_feature_map

CPU = torch.device("cpu")
BATCH, LENGTH, DIM = 1024, 20, 32
STEPS = 60
LARGE = 1_000_000  # users, and items, of the synthetic log
MODELS = {"dcnv2": "mean", "din": "attention"}


def settings(name: str, dtype: str = "auto") -> CrmConfig:
    """The same sizes for everybody."""
    return load_config(
        settings=[
            f"crm.model={name}",
            f"crm.history={MODELS[name]}",
            f"crm.history_length={LENGTH}",
            f"crm.embedding_dim={DIM}",
            f"crm.dtype={dtype}",
        ]
    ).crm


class Ours:
    """Our model, reader and optimizer, a step at a time as the loop takes them."""

    def __init__(self, log: Log, name: str, dtype: str = "auto") -> None:
        torch.manual_seed(0)
        self.log = log
        model = build_crm(settings(name, dtype), log.features, CPU)
        assert isinstance(model, Crm)
        self.model = model
        self.reader = CrmReader(log, LENGTH, CPU)
        self.optimizer = LazyAdamW(self.model.parameters(), lr=1e-3, fused=True)
        rows = log.rows_of("train")
        self.parts = rows[torch.randperm(len(rows))].split(BATCH)[:-1]
        self.in_order = rows.split(BATCH_SIZE)
        self.done = 0

    def train(self, steps: int) -> int:
        """Train some steps; returns the samples."""
        self.model.train()
        for _ in range(steps):
            rows = self.parts[self.done % len(self.parts)]
            logit = self.model(self.reader(self.log.samples(rows))).logit
            binary_cross_entropy_with_logits(logit, self.log.labels(rows).float()).backward()
            clip_gradients(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.done += 1
        return steps * BATCH

    def score(self, steps: int) -> int:
        """Score rows in the log's order; returns their number."""
        self.model.eval()
        parts = self.in_order[: max(1, steps * BATCH // BATCH_SIZE)]
        with torch.inference_mode():
            for rows in parts:
                self.model(self.reader(self.log.samples(rows)))
        return sum(len(rows) for rows in parts)

    def shares(self, steps: int) -> dict[str, float]:
        """Shares of the time of a training step that its parts take."""
        spent = dict.fromkeys(("data", "embedding", "network", "optimizer"), 0.0)
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

    def __init__(self, log: Log, name: str, folder: str, *, labels: bool = True) -> None:
        torch.manual_seed(0)
        rows = log.rows_of("train")
        rows = rows[torch.randperm(len(rows))[: BATCH * STEPS]]
        columns = columns_of(log, rows, LENGTH, labels=labels)
        features = fuxi_feature_map(log, LENGTH, pooled=name == "dcnv2", labels=labels)
        self.model = FuxiModel(name, features, settings(name), folder)
        self.model._max_gradient_norm = 10.0
        self.batches = list(FuxiBatches(columns, BATCH, shuffle=True))
        self.larger = list(FuxiBatches(columns, 4 * BATCH, shuffle=False))

    def train(self, steps: int) -> int:
        """Train some steps; returns the samples."""
        self.model.train()
        for number in range(steps):
            self.model.train_step(self.batches[number % len(self.batches)])
        return steps * BATCH

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

    def __init__(self, log: Log, name: str) -> None:
        torch.manual_seed(0)
        rows = log.rows_of("train")
        rows = rows[torch.randperm(len(rows))[: BATCH * STEPS]]
        columns = {key: value.numpy() for key, value in columns_of(log, rows, LENGTH).items()}
        self.label = columns.pop("label")
        columns["hist_item_id"] = columns.pop("history")
        columns["length"] = (columns["hist_item_id"] > 0).sum(1).clip(min=1)
        self.columns = columns
        features, crm = deepctr_columns(log, LENGTH, DIM), settings(name)
        options: dict[str, Any] = {
            "dnn_hidden_units": crm.deep_layers,
            "dnn_dropout": crm.dropout,
            "l2_reg_embedding": 0.0,
        }
        if name == "dcnv2":
            options |= {"cross_num": crm.dcnv2.cross_layers, "cross_parameterization": "matrix"}
            options |= {"l2_reg_linear": 0.0, "l2_reg_cross": 0.0}
            self.model = DCN(features, features, **options)
        else:
            options |= {"att_hidden_size": (crm.attention.hidden,), "att_activation": "relu"}
            options |= {"att_weight_normalization": True}
            self.model = DIN(features, ["item_id"], **options)
        self.model.compile("adam", "binary_crossentropy")

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


def rates(runs: dict[str, Callable[[int], int]], rounds: int, steps: int) -> dict[str, float]:
    """Samples a second of each, the best of several rounds in which they take turns."""
    best = dict.fromkeys(runs, 0.0)
    for run in runs.values():
        run(4)
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            samples = run(steps)
            best[name] = max(best[name], samples / (time.perf_counter() - start))
    return best


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


def large_log(rows: int = 400_000) -> Log:
    """A synthetic log of ``LARGE`` users and items, each with an id and nothing else."""
    generator = np.random.default_rng(0)
    table = pl.DataFrame(
        {
            "user": np.sort(generator.integers(0, LARGE, rows)).astype(np.int32),
            "item": generator.integers(0, LARGE, rows).astype(np.int32),
            "label": generator.integers(0, 2, rows).astype(np.int8),
            "time": pl.Series(np.arange(rows)).cast(pl.Datetime("us")),
            "split": np.where(np.arange(rows) % 10 < 9, 0, 1).astype(np.int8),
        }
    )
    sides = []
    for name in ("user", "item"):
        code = np.arange(1, LARGE + 1, dtype=np.int32)
        sides.append(pl.DataFrame({f"{name}_id_code": code, "train_rows": code.astype(np.int64)}))
    user, item = ([FeatureLayout(f"{name}_id", LARGE + 1, 1)] for name in ("user", "item"))
    return Log(table, *sides, features=Features(user, item))


def large_memory_mb() -> float:
    """Peak memory of training on :func:`large_log`, validations and checkpoints included."""
    log = large_log()
    config = Stage1Config(epochs=1, evaluations=2)
    model = build_crm(settings("dcnv2"), log.features, CPU)
    task = CrmTask(model, CrmReader(log, LENGTH, CPU), log, config, 0)
    loop.CHECKPOINT_SECONDS = 5.0
    with tempfile.TemporaryDirectory() as folder:
        progress = Progress(Path(folder) / "progress", "benchmark")
        loop.train(task, config, progress=progress, seed=0, accelerator=Accelerator(cpu=True))
    # Not getrusage: its figure begins with the size of the process that started this one.
    peak = next(line for line in Path("/proc/self/status").open() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def show(title: str, found: dict[str, float]) -> dict[str, float]:
    """Print rates and ours over each peer's; returns the ratios."""
    ours = found["corellarec"]
    print(f"\n{title}")
    for name, rate in found.items():
        print(f"  {name:22} {rate:12,.0f} samples/s   ours is {ours / rate:5.2f} times that")
    return {name: ours / rate for name, rate in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", help="what data.path takes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore")
    if arguments.memory_only:
        print(large_memory_mb())
        return
    data = load_config(settings=[f"data.path={arguments.data}"] if arguments.data else []).data
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        prepare(data, Path(folder) / "data")
        log = Log.load(Path(folder) / "data")
        for name in MODELS:
            runs = {
                "corellarec": Ours(log, name),
                "corellarec in fp32": Ours(log, name, "float32"),
                "FuxiCTR": Fuxi(log, name, folder),
                "DeepCTR-Torch": DeepCtr(log, name),
            }
            ours = runs["corellarec"]
            assert isinstance(ours, Ours)
            for kind in ("train", "score"):
                steps = {label: getattr(run, kind) for label, run in runs.items()}
                speed = rates(steps, arguments.rounds, STEPS)
                ratios = show(f"{name}, {kind}", speed)
                found[f"{name}_{kind}"] = {"samples_per_second": speed, "ratios": ratios}
            shares = ours.shares(STEPS)
            work = flops(ours.model, LENGTH)
            rate = found[f"{name}_train"]["samples_per_second"]["corellarec"] * work / 1e9
            gemm = {kind: gemm_rate(getattr(torch, kind)) for kind in ("float32", "bfloat16")}
            print("  time: " + ", ".join(f"{part} {share:.0%}" for part, share in shares.items()))
            print(
                f"  {rate:.0f} GFLOP/s in linear layers: "
                + ", ".join(f"{rate / of:.0%} of {kind}'s {of:.0f}" for kind, of in gemm.items())
            )
            found[name] = {"shares": shares, "gflops": rate, "gemm_gflops": gemm}
        large = large_log()
        runs = {
            "corellarec": Ours(large, "dcnv2").train,
            "FuxiCTR": Fuxi(large, "dcnv2", folder, labels=False).train,
        }
        speed = rates(runs, max(1, arguments.rounds // 2), 6)
        ratios = show("dcnv2, train, one million users and one million items", speed)
        found["large_train"] = {"samples_per_second": speed, "ratios": ratios}
    done = subprocess.run(
        [sys.executable, __file__, "--memory-only"], capture_output=True, text=True, check=True
    )
    found["large_memory_mb"] = float(done.stdout.split()[-1])
    print(f"  peak memory of ours, in a process of its own: {found['large_memory_mb']:,.0f} MB")
    found["ratio"] = min(found[f"{name}_train"]["ratios"]["FuxiCTR"] for name in MODELS)
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
