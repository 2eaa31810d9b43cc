"""Histories of a random batch: windows over the log beside FuxiCTR's Parquet loader.

Both deliver batches of 4,096 random samples with their label and the 20 rows before each: item,
whether it was liked, and whether there is such a row. Ours gathers them from the prepared log;
FuxiCTR's loader (Ray Data) reads them from a Parquet file in which every sample has its history as
lists, written here first. They take turns, on one core each; a round is an epoch of FuxiCTR's
loader, its shuffle included. Without Ray, ours is measured alone.

    python benchmarks/window_reader.py [--rows N] [--batches N] [--rounds N] [--quick] [--json]
    pip install 'ray[data]'    # for FuxiCTR's loader
"""

import importlib
import os
import statistics
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from corellarec.crm.batch import CrmReader
from corellarec.data.log import Log
from harness import emit, median_ratio, parse, parser, take_turns
from logs import synthetic_log

BATCH, LENGTH = 4096, 20
CPU = torch.device("cpu")


def make_log(rows: int, seed: int = 0) -> Log:
    """A log with five rows a user and twenty an item, on average."""
    generator = np.random.default_rng(seed)
    users, items = rows // 5, rows // 20
    user = np.sort((users * generator.random(rows) ** 2).astype(np.int32))
    item = (items * generator.random(rows) ** 3).astype(np.int32)
    return synthetic_log(user, item, users=users, items=items)


def our_readers(log: Log, batches: int) -> dict[str, Callable[[], float]]:
    """Milliseconds a batch, the median: of the window alone, and of all that a CRM reads."""
    reader = CrmReader(log, LENGTH, CPU, ratings=False)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(len(log), (BATCH,), generator=generator) for _ in range(batches)]

    def window(rows: torch.Tensor) -> None:
        reader.history(log.samples(rows))
        log.test_labels(rows, "benchmark")

    def milliseconds(read: Callable[[torch.Tensor], Any]) -> float:
        times = []
        for rows in drawn:
            start = time.perf_counter()
            read(rows)
            times.append(time.perf_counter() - start)
        return 1000 * statistics.median(times)

    return {
        "window": lambda: milliseconds(window),
        "whole": lambda: milliseconds(lambda rows: reader(log.samples(rows))),
    }


def write_lists(log: Log, path: Path) -> None:
    """Every sample with its history as lists, padded at the left by zeros, as FuxiCTR wants it."""
    reader = CrmReader(log, LENGTH, CPU, ratings=False)
    pieces = []
    for rows in torch.arange(len(log)).split(500_000):
        item, liked, mask = reader.history(log.samples(rows))
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


def fuxictr_reader(path: Path, rows: int) -> Callable[[], float]:
    """Milliseconds a batch of FuxiCTR's shuffling loader over an epoch."""
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders.parquet_dataloader import ParquetDataLoader

    features = FeatureMap("benchmark", ".")
    features.labels = ["label"]
    names = ("user_id", "item_id", "history", "liked")
    features.features = OrderedDict((name, {}) for name in names)

    def epoch() -> float:
        loader = ParquetDataLoader(features, str(path), "train", batch_size=BATCH, shuffle=True)
        start = time.perf_counter()
        batches = sum(1 for _ in loader)
        seconds = time.perf_counter() - start
        assert batches == -(-rows // BATCH)
        return 1000 * seconds / batches

    return epoch


def import_ray() -> Any:  # noqa: ANN401 (a module)
    """Ray with its data library, or None where it is not installed."""
    try:
        importlib.import_module("ray.data")
    except ImportError:
        return None
    return importlib.import_module("ray")


def main() -> None:
    options = parser(__doc__, rounds=3)
    options.add_argument("--rows", type=int, default=5_000_000, help="rows of the log")
    options.add_argument("--batches", type=int, default=200, help="batches of ours in a round")
    given = parse(options, quick={"rows": 1_000_000, "batches": 100})
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # Ray's workers inherit it
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    log = make_log(given.rows)
    ways = our_readers(log, given.batches)
    disk_mb = None
    with tempfile.TemporaryDirectory() as folder:
        ray = import_ray()
        if ray is not None:
            path = Path(folder) / "samples.parquet"
            write_lists(log, path)
            disk_mb = path.stat().st_size / 2**20
            ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=40)
            ways["fuxictr"] = fuxictr_reader(path, len(log))
        results = take_turns(ways, given.rounds)
        if ray is not None:
            ray.shutdown()
    median = {name: statistics.median(values) for name, values in results.items()}
    print(f"{BATCH:,} samples with {LENGTH} rows of history, {len(log):,} rows, one core")
    print(f"windows over the log            {median['window']:8.2f} ms a batch, nothing on disk")
    print(f"the whole batch a CRM reads     {median['whole']:8.2f} ms")
    if ray is None:
        print("FuxiCTR's Parquet loader        Ray is not installed: pip install 'ray[data]'")
    else:
        print(
            f"FuxiCTR's Parquet loader        {median['fuxictr']:8.2f} ms a batch over an epoch, "
            f"{disk_mb:,.0f} MiB on disk"
        )
    emit(
        given,
        {
            "window_ms": median["window"],
            "whole_ms": median["whole"],
            "fuxictr_ms": median.get("fuxictr"),
            "fuxictr_disk_mb": disk_mb,
        },
        ratio=None if ray is None else median_ratio(results["fuxictr"], results["window"]),
        ratio_of="ms a batch of FuxiCTR's Parquet loader over ours, windows over the log",
    )


if __name__ == "__main__":
    main()
