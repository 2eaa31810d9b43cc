"""Prepare a log of the size of Amazon Books, and a tenth of it beside pandas.

The log is synthetic: 51 million ratings of 8 million users and 2.3 million books with titles,
authors and categories, in the files of Amazon's 2014 release (2 GB). The first part runs `prepare`
on all of it and prints time and peak memory. The second runs it on the first 5 million rows, and
pandas on the same: drop duplicates, sort, label, split by time, number ids and features, write
Parquet. What pandas needs beyond that, histories as lists, is timed apart: the prepared log needs
none, a history is a window over it.

Source of the sizes: https://nijianmo.github.io/amazon (51,311,621 ratings of Books).
"""

import argparse
import gzip
import importlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

ROWS, USERS, ITEMS, SLICE = 51_000_000, 8_000_000, 2_300_000, 5_000_000
BLOCK = 1_000_000
HISTORY = 20


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


def prepare_slice(folder: Path, out: Path) -> dict[str, float]:
    """Seconds and memory of this project."""
    from corellarec.config import load_config
    from corellarec.data.prepare import peak_memory_mb, prepare

    config = load_config(preset="amazon-books", settings=[f"data.path={folder}"]).data
    start = time.perf_counter()
    facts = prepare(config, out / "prepared")
    seconds = time.perf_counter() - start
    return {"rows": facts.rows, "seconds": seconds, "memory_mb": peak_memory_mb()}


def pandas_slice(folder: Path, out: Path) -> dict[str, float]:
    """Seconds and memory of the same in pandas."""
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
    return {
        "rows": len(rows),
        "seconds": seconds,
        "seconds_with_histories": time.perf_counter() - start,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


PARTS = {"ours": prepare_slice, "pandas": pandas_slice}


def apart(part: str, folder: Path, out: Path) -> dict[str, float]:
    """A part in a process of its own, so that memory is its own."""
    command = [sys.executable, __file__, "--part", part, str(folder), str(out)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where to keep the log (3 GB) for another run")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the sizes, for a trial")
    parser.add_argument("--repeat", type=int, default=3, help="runs of the slice; the best counts")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        name, folder, out = given.part
        print(json.dumps(PARTS[name](Path(folder), Path(out))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = given.folder or Path(temporary), Path(temporary) / "out"
        sizes = [int(size * given.scale) for size in (ROWS, USERS, ITEMS, SLICE)]
        if not (folder / "full" / "meta_Books.json.gz").exists():
            write_log(folder / "full", *sizes[:3])
        slice_folder = folder / "slice"
        slice_folder.mkdir(parents=True, exist_ok=True)
        pl.scan_csv(folder / "full" / "ratings_Books.csv", has_header=False).head(
            sizes[3]
        ).collect().write_csv(slice_folder / "ratings_Books.csv", include_header=False)
        meta = slice_folder / "meta_Books.json.gz"
        meta.unlink(missing_ok=True)
        meta.symlink_to((folder / "full" / "meta_Books.json.gz").resolve())
        found = {"full": apart("ours", folder / "full", out / "full")}
        disk = sum(file.stat().st_size for file in (out / "full").rglob("*.parquet"))
        found["full"]["disk_mb"] = disk / 2**20
        for name in PARTS:
            runs = [apart(name, slice_folder, out / f"{name}{i}") for i in range(given.repeat)]
            found[name] = min(runs, key=lambda run: run["seconds"])
    ratio = found["pandas"]["seconds"] / found["ours"]["seconds"]
    with_histories = found["pandas"]["seconds_with_histories"] / found["ours"]["seconds"]
    if given.json:
        print(json.dumps(found | {"ratio": ratio, "ratio_with_histories": with_histories}))
        return
    for name, run in found.items():
        print(
            f"{name:7} {run['rows']:>11,} rows  {run['seconds']:7.1f} s  "
            f"{run['rows'] / run['seconds']:>9,.0f} rows/s  {run['memory_mb']:>7,.0f} MiB at most"
        )
    print(f"on disk: {found['full']['disk_mb']:,.0f} MiB, histories included")
    print(f"pandas / ours: {ratio:.1f}; with histories as lists: {with_histories:.1f}")


if __name__ == "__main__":
    main()
