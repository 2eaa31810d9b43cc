"""Prepare a log of the size of Amazon Books, and a tenth of it beside pandas.

The log is synthetic: 51 million ratings of 8 million users and 2.3 million books with titles,
authors and categories, in the files of Amazon's 2014 release (2 GB). The first part runs `prepare`
on all of it and prints time and peak memory. The second runs it on the first 5 million rows, and
pandas on the same, in turn: drop duplicates, sort, label, split by time, number ids and features,
write Parquet. What pandas needs beyond that, histories as lists, is timed apart: the prepared log
needs none, a history is a window over it.

    python benchmarks/prepare.py [--rows N] [--users N] [--items N] [--memory-limit-mb N]
        [--slice N] [--rounds N] [--folder DIRECTORY] [--quick] [--json]

Source of the sizes: https://nijianmo.github.io/amazon (51,311,621 ratings of Books).
"""

import argparse
import gzip
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from harness import emit, median_ratio, parse, parser, peak_memory_mb, take_turns

ROWS, USERS, ITEMS = 51_000_000, 8_000_000, 2_300_000
BLOCK = 1_000_000
HISTORY = 20


@dataclass(frozen=True)
class Cost:
    """What preparing a log took.

    Args:
        rows: Rows that were written.
        seconds: Time, without histories as lists.
        seconds_with_histories: Time, with them where they are needed.
        memory_mb: Peak memory of the process, in MiB.
        disk_mb: Parquet files that were written, in MiB.
    """

    rows: int
    seconds: float
    seconds_with_histories: float
    memory_mb: float
    disk_mb: float


def write_log(folder: Path, rows: int, users: int, items: int, seed: int = 0) -> None:
    """A category's ratings and metadata; a few users and items have most of the rows."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "ratings_Books.csv").open("wb") as file:
        for begin in range(0, rows, BLOCK):
            size = min(BLOCK, rows - begin)
            user = (users * generator.random(size) ** 2).astype(np.int64)
            item = (items * generator.random(size) ** 3).astype(np.int64)
            block = pl.DataFrame(
                {
                    "user": user * 2_654_435_761 % 2**40,
                    "item": item,
                    "rating": generator.choice(
                        [1.0, 2.0, 3.0, 4.0, 5.0], size, p=[0.05, 0.05, 0.1, 0.2, 0.6]
                    ),
                    "time": generator.integers(850_000_000, 1_530_000_000, size),
                }
            )
            block.select(
                pl.format("A{}", pl.col("user").cast(pl.String).str.zfill(13)),
                pl.format("{}", pl.col("item").cast(pl.String).str.zfill(10)),
                "rating",
                "time",
            ).write_csv(file, include_header=False)
    with gzip.open(folder / "meta_Books.json.gz", "wt", compresslevel=1) as file:
        for item in range(items):
            title = f"Book {item} {'&amp; more ' if item % 10 == 0 else ''}of its kind"
            facts = {"asin": f"{item:010}", "title": title, "brand": f"Author {item % 200_000}",
                     "category": ["Books", f"Genre {item % 40}"]}  # fmt: skip
            file.write(json.dumps(facts) + "\n")


def prepare_ours(folder: Path, out: Path, limit_mb: int) -> Cost:
    """Prepare the log of a folder with this project, within so much memory; 0: any."""
    from corellarec.config import load_config
    from corellarec.data.prepare import prepare

    settings = [f"data.path={folder}", f"data.memory_limit_mb={limit_mb}"]
    config = load_config(preset="amazon-books", settings=settings).data
    start = time.perf_counter()
    prepare(config, out)
    seconds, memory = time.perf_counter() - start, peak_memory_mb()
    rows = pl.scan_parquet(out / "rows.parquet").select(pl.len()).collect().item()
    return Cost(rows, seconds, seconds, memory, parquet_mb(out))


def prepare_with_pandas(folder: Path, out: Path, _: int) -> Cost:
    """The same in pandas."""
    pd: Any = importlib.import_module("pandas")  # its types are more trouble than they are worth
    start = time.perf_counter()
    rows = pd.read_csv(
        folder / "ratings_Books.csv",
        header=None,
        names=["user", "item", "rating", "time"],
        dtype={"user": str, "item": str},
    )
    meta = pd.read_json(folder / "meta_Books.json.gz", lines=True, dtype={"asin": str})
    rows = rows.drop_duplicates(["user", "item", "time"]).sort_values(["user", "time", "item"])
    rows["label"] = (rows["rating"] >= 5).astype("int8")
    cuts = rows["time"].quantile([0.8, 0.9]).to_numpy()
    rows["split"] = np.searchsorted(cuts, rows["time"], side="right")
    rows["user"], users = pd.factorize(rows["user"], sort=True)
    rows["item"], items = pd.factorize(rows["item"], sort=True)
    train_rows = rows[rows["split"] == 0].groupby("item").size()
    table = pd.DataFrame({"asin": items}).merge(meta, on="asin", how="left")
    table["train_rows"] = train_rows.reindex(range(len(table)), fill_value=0)
    table["title"] = table["title"].str.replace("&amp;", "&")
    for name in ("brand", "category"):
        column = table[["train_rows", name]].explode(name)
        counts = column[column["train_rows"] > 0].groupby(name)["train_rows"].sum()
        codes = {token: i + 1 for i, token in enumerate(counts.sort_values()[::-1].index)}
        coded = column[name].map(codes).fillna(0).astype("int32")
        multi = name == "category"
        table[f"{name}_code"] = coded.groupby(level=0).agg(list) if multi else coded
    out.mkdir(parents=True, exist_ok=True)
    rows.drop(columns="rating").to_parquet(out / "rows.parquet")
    table.to_parquet(out / "items.parquet")
    pd.DataFrame({"id": users}).to_parquet(out / "users.parquet")
    seconds = time.perf_counter() - start
    item, user = rows["item"].to_numpy(), rows["user"].to_numpy()
    first = np.append(0, np.flatnonzero(np.diff(user)) + 1)
    begin = np.repeat(first, np.diff(np.append(first, len(user))))
    lists = [item[max(b, i - HISTORY) : i] for i, b in enumerate(begin)]
    pd.DataFrame({"history": lists}).to_parquet(out / "histories.parquet")
    with_histories, memory = time.perf_counter() - start, peak_memory_mb()
    return Cost(len(rows), seconds, with_histories, memory, parquet_mb(out))


def parquet_mb(folder: Path) -> float:
    """Size of a folder's Parquet files, in MiB."""
    return sum(file.stat().st_size for file in folder.rglob("*.parquet")) / 2**20


PARTS = {"ours": prepare_ours, "pandas": prepare_with_pandas}


def apart(part: str, folder: Path, out: Path, limit_mb: int = 0) -> Cost:
    """A part in a process of its own, so that memory is its own; what it writes is deleted."""
    with tempfile.TemporaryDirectory(dir=out) as written:
        command = [sys.executable, __file__, "--part", part, str(folder), f"{written}/log"]
        command.append(str(limit_mb))
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return Cost(**json.loads(done.stdout))


def write_slice(full: Path, folder: Path, rows: int) -> None:
    """The first rows of a log, with all of its metadata."""
    folder.mkdir(parents=True)
    ratings = pl.scan_csv(full / "ratings_Books.csv", has_header=False)
    ratings.head(rows).collect().write_csv(folder / "ratings_Books.csv", include_header=False)
    (folder / "meta_Books.json.gz").symlink_to((full / "meta_Books.json.gz").resolve())


def main() -> None:
    options = parser(__doc__, rounds=3)
    options.add_argument("--rows", type=int, default=ROWS, help="rows of the whole log")
    options.add_argument("--users", type=int, help="its users; by default in proportion")
    options.add_argument("--items", type=int, help="its items; likewise")
    options.add_argument("--slice", type=int, default=5_000_000, help="rows beside pandas")
    options.add_argument("--folder", type=Path, help="where to keep the log for another run")
    options.add_argument("--memory-limit-mb", type=int, default=0, help="data.memory_limit_mb")
    options.add_argument("--part", nargs=4, help=argparse.SUPPRESS)
    given = parse(options, quick={"rows": 4_000_000, "slice": 1_000_000})
    if given.part:
        name, folder, out, limit_mb = given.part
        print(json.dumps(asdict(PARTS[name](Path(folder), Path(out), int(limit_mb)))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        users = given.users or int(USERS * given.rows / ROWS)
        items = given.items or int(ITEMS * given.rows / ROWS)
        full = (given.folder or out) / f"{given.rows}-{users}-{items}"
        if not (full / "meta_Books.json.gz").exists():
            write_log(full, given.rows, users, items)
        write_slice(full, out / "slice", given.slice)
        whole = apart("ours", full, out, given.memory_limit_mb)
        results = take_turns(
            {name: lambda name=name: apart(name, out / "slice", out) for name in PARTS},
            given.rounds,
            warm_up=False,
        )
    figures = {"full": asdict(whole)}
    for name, costs in results.items():
        figures[name] = {
            field: statistics.median(getattr(cost, field) for cost in costs)
            for field in asdict(whole)
        }
    for name, cost in figures.items():
        print(
            f"{name:7} {cost['rows']:>11,} rows  {cost['seconds']:7.1f} s  "
            f"{cost['rows'] / cost['seconds']:>9,.0f} rows/s  "
            f"{cost['memory_mb']:>7,.0f} MiB of memory  {cost['disk_mb']:>7,.0f} MiB on disk"
        )
    ratio, with_histories = (
        median_ratio(*([getattr(cost, field) for cost in results[n]] for n in ("pandas", "ours")))
        for field in ("seconds", "seconds_with_histories")
    )
    print(f"pandas over ours with histories as lists: {with_histories:.1f}")
    emit(
        given,
        {**figures, "ratio_with_histories": with_histories},
        ratio=ratio,
        ratio_of="seconds of pandas over ours, on the slice, without histories as lists",
    )


if __name__ == "__main__":
    main()
