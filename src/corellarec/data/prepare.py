"""Turn a raw log into the prepared log: sorted, labelled, split by time, ids made dense.

The prepared log is one directory:

    rows.parquet    user, item (int32: row numbers of the tables below), label (int8),
                    time (datetime, microseconds, UTC), split (int8: 0 train, 1 validation, 2 test,
                    3 history only), level (int8) and perhaps weight (float32), sorted by
                    (user, time, item); negatives that were drawn are rows with label 0
    users.parquet   id, train_rows (int64, rows in the training split; 0 is a cold user), each
                    feature, and FEATURE_code (int32, or a fixed number of int32) or
                    FEATURE_values (a fixed number of float32)
    items.parquet   the same, and title (text or null); items that are listed and have no rows last
    manifest.json   what it was made from, what was counted and left out, warnings, checksums

Code 0 means out of vocabulary; vocabularies hold what the training split shows, no more.
"""

import hashlib
import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from corellarec.base.artifacts import MANIFEST, sha256, writing
from corellarec.base.errors import ArtifactError, DataError
from corellarec.config import DataConfig
from corellarec.data.check import check_rows, check_tables
from corellarec.data.extend import append
from corellarec.data.features import check_fields, coded_and_valued, encode, layout, value_layout
from corellarec.data.levels import rating_edges, rating_levels
from corellarec.data.negatives import with_negatives
from corellarec.data.order import in_order
from corellarec.data.preparation import (
    Features,
    Preparation,
    SplitFacts,
    read_preparation,
)
from corellarec.data.raw import RawLog
from corellarec.data.rows import Rows, read_rows
from corellarec.data.sources.recognise import read_raw, source_files
from corellarec.data.splits import (
    HISTORY_ONLY,
    SPLITS,
    check_drawn,
    check_splits,
    split_rows,
)
from corellarec.data.vectors import with_vectors

NO_MATTER = {"path", "fetch", "max_unpacked_mb", "memory_limit_mb"}  # settings
FORMAT = 8  # raised when the prepared log changes shape, so that old ones are made anew
MIB = 1 << 20
# Memory beyond what is read, as measured by benchmarks/prepare.py.
ROW_BYTES, DRAWN_BYTES, ID_BYTES = 40, 80, 100


@dataclass(frozen=True)
class Prepared:
    """A prepared log before it is written.

    Args:
        rows, users, items: The tables.
        facts: What the manifest will say.
    """

    rows: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame
    facts: Preparation


def prepare(config: DataConfig, directory: Path) -> Preparation:
    """Prepare the log that ``config`` names into ``directory``; returns the manifest's facts.

    Does nothing where ``directory`` already holds the same source prepared with the same settings;
    a log from a database server is always read again.

    Raises:
        ConfigError: If the settings name no log, or a section cannot be used.
        DataError: If the source is missing, malformed, or cannot be split into usable parts.
        FetchError: If the default data set cannot be obtained.
    """
    key = _content_key(config)
    if key and (directory / MANIFEST).exists():
        with suppress(ArtifactError):  # what cannot be used is made anew
            facts = read_preparation(directory)
            if facts.key == key:
                return replace(facts, up_to_date=True)
    prepared = build(config)
    facts = replace(prepared.facts, key=key)
    with writing(directory, facts) as unfinished:
        prepared.rows.write_parquet(unfinished / "rows.parquet")
        prepared.users.write_parquet(unfinished / "users.parquet")
        prepared.items.write_parquet(unfinished / "items.parquet")
    return facts


def build(config: DataConfig) -> Prepared:
    """Everything that :func:`prepare` does but for writing it."""
    start = time.perf_counter()
    raw = read_raw(config)
    if config.item_vectors:
        raw = with_vectors(raw, Path(config.item_vectors).expanduser())
    check_fields(raw.user_fields, "users")
    check_fields(raw.item_fields, "items")
    with TemporaryDirectory() as folder:
        read = read_rows(
            raw.files,
            raw.time_unit,
            config.skip_bad_rows,
            raw.time_format,
            raw.time_zone,
            Path(folder) if config.memory_limit_mb else None,
        )
        _check_memory(read, config)
        warnings = [*raw.warnings, *check_rows(read, raw, config)]
        threshold = 0.5 if raw.labelled else config.positive_rating
        implicit, enough, titled = config.is_implicit, None, None
        if implicit:
            enough = pl.col("value") > 0 if raw.weighted else pl.col("value") >= threshold
        if config.untitled == "drop":
            titled = raw.items.filter(pl.col("title").str.strip_chars() != "")["id"]
        rows, user_ids, item_ids, left_out = in_order(
            read, enough, titled, config.min_user_rows, config.min_item_rows
        )
    left_out = replace(left_out, bad_rows=read.skipped)
    first_bad_row, time_unit = read.first_skipped, read.time_unit
    del read
    label = implicit | (rows["value"].to_numpy() >= threshold)  # in float32 (NEP 50)
    split = split_rows(
        rows["user"].to_numpy(),
        rows["time"].to_numpy(),
        shares=config.split,
        min_history=config.min_history,
        given=rows["split"].to_numpy() if "split" in rows.columns else None,
    )
    check_splits(
        label,
        split,
        shares=config.split,
        threshold=None if raw.labelled else threshold,
        drawn=implicit,
    )
    # What is known when training ends: a history-only row of before counts, too.
    cut = rows["time"].to_numpy()[split == 0].max()
    known = (split == 0) | ((split == HISTORY_ONLY) & (rows["time"].to_numpy() <= cut))
    tables = {}
    for side, ids, features, fields in (
        ("user", user_ids, raw.users, raw.user_fields),
        ("item", item_ids, raw.items, raw.item_fields),
    ):
        train_rows = np.bincount(rows[side].to_numpy()[known], minlength=len(ids))
        tables[side] = encode(
            ids, features, fields, side, train_rows, config.numbers, config.vocabulary
        )
    users, items = tables["user"], tables["item"]
    edges, level = [], label.astype(np.int8)
    if not raw.labelled and not implicit:
        rating = rows["value"].to_numpy()
        edges = rating_edges(rating[split == 0])
        level = rating_levels(rating, edges)
    rows = rows.select(
        "user",
        "item",
        label=pl.Series(label.astype(np.int8)),
        time=pl.col("time").cast(pl.Datetime("us", "UTC")),
        split=pl.Series(split),
        level=pl.Series(level),
        **({"weight": "value"} if raw.weighted else {}),
    )
    if implicit:
        rows = with_negatives(rows, items.height, config.negatives)
        check_drawn(rows["label"].to_numpy(), rows["split"].to_numpy())
    layouts = {}
    for side, table, fields in (
        ("user", users, raw.user_fields),
        ("item", items, raw.item_fields),
    ):
        coded, valued = coded_and_valued(fields, config.numbers)
        layouts[side] = layout(table, [f"{side}_id", *coded])
        layouts[f"{side}_values"] = value_layout(table, valued)
    features = Features(**layouts, ratings=edges)
    splits = _split_facts(rows, users, items)
    samples = sum(part.rows for part in splits.values())
    facts = Preparation(
        rows=samples,
        history_only_rows=rows.height - samples,
        users=users.height,
        items=items.height,
        untitled_items=int((items["title"].fill_null("").str.strip_chars() == "").sum()),
        positives=sum(part.positives for part in splits.values()),
        splits=splits,
        left_out=left_out,
        first_bad_row=first_bad_row,
        time_unit=time_unit,
        history="positives" if implicit else config.history,
        ties="apart" if implicit else config.ties,
        negatives=config.negatives if implicit else None,
        features=features,
        settings=config,
        warnings=(),
        seconds=0.0,
        peak_memory_mb=0,
    )
    facts = replace(
        facts,
        warnings=(*warnings, *check_tables(facts, rows, users, items, raw)),
        seconds=round(time.perf_counter() - start, 2),
        peak_memory_mb=peak_memory_mb(),
    )
    return Prepared(rows, users, _with_unrated(items, raw, features, config), facts)


def _with_unrated(
    items: pl.DataFrame, raw: RawLog, features: Features, config: DataConfig
) -> pl.DataFrame:
    """The item table with the items below it that are listed and have no rows.

    They can be scored and recommended. Where items with few rows are left out, so are these.
    """
    if config.min_item_rows or config.min_user_rows:
        return items
    unrated = raw.items.join(items.select("id"), on="id", how="anti", maintain_order="left")
    if config.untitled == "drop":
        unrated = unrated.filter(pl.col("title").str.strip_chars() != "")
    unrated = unrated.unique("id", keep="first", maintain_order=True)
    return append(items, unrated, features.item, features.item_values)


def _check_memory(read: Rows, config: DataConfig) -> None:
    """Refuse a log that needs more memory than the limit, before it is taken."""
    if not config.memory_limit_mb:
        return
    import psutil

    limit_mb, ids = config.memory_limit_mb, len(read.users) + len(read.items)
    drawn = DRAWN_BYTES * (1 + config.negatives.per_positive) if config.is_implicit else 0
    more = ((ROW_BYTES + drawn) * read.height + ID_BYTES * ids) / MIB
    need_mb = psutil.Process().memory_info().rss / MIB + more
    if need_mb > limit_mb:
        raise DataError(
            f"{read.height:,} rows of {len(read.users):,} users and {len(read.items):,} items take "
            f"about {need_mb:,.0f} MiB to be prepared, and data.memory_limit_mb is {limit_mb:,}: "
            "raise it, or cut the log, such as to the last months, or the last rows of each user"
        )


def peak_memory_mb() -> int:
    """Most memory that this process has held so far, in MiB."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset // MIB
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (MIB if sys.platform == "darwin" else 1024)


def _content_key(config: DataConfig) -> str | None:
    """A hash of settings and source; None where the source is a server."""
    digest = hashlib.sha256()
    settings = config.model_dump(mode="json", exclude=NO_MATTER)
    digest.update(json.dumps([FORMAT, settings], sort_keys=True).encode())
    files = source_files(config)
    if files is None:
        return None
    if config.item_vectors:
        files = [*files, Path(config.item_vectors).expanduser()]
    for file in files:
        digest.update(os.fsencode(file.name) if len(files) > 1 else b"")
        if file.is_file():
            digest.update(sha256(file).encode())
    return digest.hexdigest()


def _split_facts(
    rows: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame
) -> dict[str, SplitFacts]:
    cold = {
        f"cold_{side}_rows": (table["train_rows"] == 0).gather(rows[side])
        for side, table in (("user", users), ("item", items))
    }
    counted = (
        rows.lazy()
        .select("split", "label", "time", **cold)
        .group_by("split")
        .agg(
            pl.len().alias("rows"),
            pl.col("label").sum().alias("positives"),
            pl.col("time").min().alias("first"),
            pl.col("time").max().alias("last"),
            *(pl.col(name).sum() for name in cold),
        )
        .collect(engine="streaming")
    )
    found = {row.pop("split"): SplitFacts(**row) for row in counted.iter_rows(named=True)}
    return {name: found[number] for number, name in enumerate(SPLITS)}
