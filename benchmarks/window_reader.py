"""Histories of a random batch: windows over the log beside FuxiCTR's Parquet loader.

Both deliver batches of 4,096 random samples with their label and the 20 rows before each: item,
whether it was liked, and whether there is such a row. Ours gathers them from the prepared log;
FuxiCTR's loader (Ray Data) reads them from a Parquet file in which every sample has its history as
lists, written here first. One core each. Without Ray, ours is measured alone.

    python benchmarks/window_reader.py [--rows 5000000] [--json]
    pip install 'ray[data]'    # for FuxiCTR's loader
"""

import argparse
import importlib
import json
import os
import tempfile
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from corellarec.crm.batch import CrmReader
from corellarec.data.log import FeatureLayout, Features, Log

BATCH, LENGTH = 4096, 20
CPU = torch.device("cpu")


def make_log(rows: int, seed: int = 0) -> Log:
    """A log of one row in five a user and one in twenty an item."""
    generator = np.random.default_rng(seed)
    users, items = rows // 5, rows // 20
    user = np.sort((users * generator.random(rows) ** 2).astype(np.int32))
    table = pl.DataFrame(
        {
            "user": user,
            "item": (items * generator.random(rows) ** 3).astype(np.int32),
            "label": generator.integers(0, 2, rows).astype(np.int8),
            "time": np.arange(rows),
            "split": np.zeros(rows, dtype=np.int8),
        }
    )

    def entities(count: int, name: str) -> pl.DataFrame:
        codes = np.arange(1, count + 1, dtype=np.int32)
        return pl.DataFrame({"train_rows": np.ones(count, dtype=np.int64), f"{name}_code": codes})

    return Log(
        table,
        entities(users, "user_id"),
        entities(items, "item_id"),
        Features(
            (FeatureLayout("user_id", users + 1, 1),), (FeatureLayout("item_id", items + 1, 1),)
        ),
    )


def ours(log: Log, batches: int) -> dict[str, float]:
    """Milliseconds a batch: the window alone, and the whole batch that a CRM reads."""
    reader = CrmReader(log, LENGTH, CPU)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(len(log), (BATCH,), generator=generator) for _ in range(batches)]

    def window(rows: torch.Tensor) -> None:
        reader.window(log.samples(rows))
        log.test_labels(rows, "benchmark")

    found = {}
    for name, read in (("window", window), ("whole", lambda rows: reader(log.samples(rows)))):
        times = []
        for rows in drawn:
            start = time.perf_counter()
            read(rows)
            times.append(time.perf_counter() - start)
        found[f"{name}_ms"] = 1000 * float(np.median(times))
    return found


def write_lists(log: Log, path: Path) -> None:
    """Every sample with its history as lists, padded at the left by zeros, as FuxiCTR wants it."""
    reader = CrmReader(log, LENGTH, CPU)
    pieces = []
    for rows in torch.arange(len(log)).split(500_000):
        item, liked, mask = reader.window(log.samples(rows))
        pieces.append(
            pl.DataFrame(
                {
                    "user_id": log.user[rows].numpy() + 1,
                    "item_id": log.item[rows].numpy() + 1,
                    "history": ((item + 1) * mask).flip(1).numpy(),
                    "liked": ((liked + 1) * mask).flip(1).numpy(),
                    "label": log.test_labels(rows, "benchmark").numpy().astype(np.float32),
                }
            )
        )
    pl.concat(pieces).write_parquet(path)


def fuxictr(path: Path, log: Log) -> dict[str, float]:
    """Milliseconds a batch of FuxiCTR's shuffling loader over an epoch, its shuffle included."""
    ray: Any = importlib.import_module("ray")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders.parquet_dataloader import ParquetDataLoader

    features = FeatureMap("benchmark", ".")
    features.labels = ["label"]
    names = ("user_id", "item_id", "history", "liked")
    features.features = OrderedDict((name, {}) for name in names)
    loader = ParquetDataLoader(features, str(path), "train", batch_size=BATCH, shuffle=True)
    start = time.perf_counter()
    times = [time.perf_counter() for _ in loader]
    found = {
        "fuxictr_ms": 1000 * (times[-1] - start) / len(times),
        "fuxictr_first_batch_s": times[0] - start,
        "fuxictr_ms_after_the_first": 1000 * (times[-1] - times[0]) / (len(times) - 1),
        "fuxictr_disk_mb": path.stat().st_size / 2**20,
    }
    assert len(times) == -(-len(log) // BATCH)
    del loader
    ray.shutdown()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {0})  # Ray's workers inherit it
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    log = make_log(given.rows)
    found = ours(log, given.batches)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "samples.parquet"
        try:
            importlib.import_module("ray.data")
        except ImportError:
            found["fuxictr_ms"] = float("nan")
        else:
            write_lists(log, path)
            found |= fuxictr(path, log)
    found["ratio"] = found["fuxictr_ms"] / found["window_ms"]
    if given.json:
        print(json.dumps(found))
        return
    print(f"{BATCH:,} samples with {LENGTH} rows of history, {len(log):,} rows, one core")
    print(f"windows over the log            {found['window_ms']:8.2f} ms a batch, nothing on disk")
    print(f"the whole batch a CRM reads     {found['whole_ms']:8.2f} ms")
    if np.isnan(found["fuxictr_ms"]):
        print("FuxiCTR's Parquet loader: not measured; pip install 'ray[data]'")
        return
    print(
        f"FuxiCTR's Parquet loader        {found['fuxictr_ms']:8.2f} ms a batch over an epoch, "
        f"{found['fuxictr_disk_mb']:,.0f} MiB on disk; first batch after "
        f"{found['fuxictr_first_batch_s']:.1f} s, then {found['fuxictr_ms_after_the_first']:.2f} ms"
    )
    print(f"ratio over an epoch: {found['ratio']:.0f}")


if __name__ == "__main__":
    main()
