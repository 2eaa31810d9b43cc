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
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corellarec.base.artifacts import MANIFEST, sha256, writing
from corellarec.base.errors import ArtifactError, DataError
from corellarec.config import DataConfig
from corellarec.data.check import check_rows, check_tables
from corellarec.data.extend import append
from corellarec.data.features import check_fields, coded_and_valued, encode, layout, value_layout
from corellarec.data.levels import rating_edges, rating_levels
from corellarec.data.negatives import with_negatives
from corellarec.data.preparation import (
    Features,
    LeftOut,
    Preparation,
    SplitFacts,
    read_preparation,
)
from corellarec.data.raw import RawLog
from corellarec.data.rows import read_rows
from corellarec.data.sources.recognise import read_raw, source_files
from corellarec.data.splits import (
    HISTORY_ONLY,
    SPLITS,
    check_drawn,
    check_splits,
    split_rows,
)
from corellarec.data.vectors import with_vectors

FORMAT = 8  # raised when the prepared log changes shape, so that old ones are made anew


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
    read = read_rows(raw.files, raw.time_unit, config.skip_bad_rows, raw.time_format, raw.time_zone)
    warnings = [*raw.warnings, *check_rows(read, raw, config)]
    threshold = 0.5 if raw.labelled else config.positive_rating
    kept, implicit, height = [read.table], config.is_implicit, read.table.height
    read = replace(read, table=read.table.clear())  # or the rows would be held twice
    if implicit:
        enough = pl.col("value") > 0 if raw.weighted else pl.col("value") >= threshold
        kept = [kept.pop().filter(enough)]
    negative_rows = height - kept[0].height
    titled = None
    if config.untitled == "drop":
        titled = raw.items.filter(pl.col("title").str.strip_chars() != "")["id"]
    rows, user_ids, item_ids, left_out = _clean(
        kept.pop(), titled, config.min_user_rows, config.min_item_rows
    )
    label = implicit | (rows["value"].to_numpy() >= threshold)  # in float32 (NEP 50)
    split = split_rows(
        rows["user"].to_numpy(),
        rows["time"].to_numpy(),
        shares=config.split,
        min_history=config.min_history,
        given=rows["split"] if "split" in rows.columns else None,
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
    samples = rows.filter(pl.col("split") != HISTORY_ONLY)
    facts = Preparation(
        rows=samples.height,
        history_only_rows=rows.height - samples.height,
        users=users.height,
        items=items.height,
        untitled_items=int((items["title"].fill_null("").str.strip_chars() == "").sum()),
        positives=int(samples["label"].sum()),
        splits=_split_facts(samples, users, items),
        left_out=replace(left_out, bad_rows=read.skipped, negative_rows=negative_rows),
        first_bad_row=read.first_skipped,
        time_unit=read.time_unit,
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


def peak_memory_mb() -> int:
    """Most memory that this process has held so far, in MiB."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset // (1024 * 1024)
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 * 1024 if sys.platform == "darwin" else 1024)


def _content_key(config: DataConfig) -> str | None:
    """A hash of settings and source; None where the source is a server."""
    digest = hashlib.sha256()
    settings = config.model_dump(mode="json", exclude={"path", "fetch", "max_unpacked_mb"})
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


# From rows as read to rows in order.


def _clean(
    rows: pl.DataFrame, titled: pl.Series | None, min_user_rows: int, min_item_rows: int
) -> tuple[pl.DataFrame, pl.Series, pl.Series, LeftOut]:
    """Rows sorted by (user, time, item) with ids as numbers, the ids, and what was left out.

    Rows of items that are not ``titled`` are left out, where it is given.
    """
    numbers, ids = {}, {}
    for side in ("user", "item"):
        ids[side], numbers[side] = _dense(rows[side])
    user_ids, item_ids = ids["user"], ids["item"]
    rows = rows.with_columns(**numbers)
    del numbers  # the table alone holds them, until it is sorted
    # One interaction noted twice: the higher rating stays, whatever the order in the file.
    rows = rows.sort("user", "time", "item", "value")
    again = _same_as_next(rows, "user") & _same_as_next(rows, "time") & _same_as_next(rows, "item")
    rows = rows.filter(~again) if again.any() else rows
    untitled = 0
    if titled is not None:
        drop = ~item_ids.is_in(titled.implode()).to_numpy()[rows["item"].to_numpy()]
        rows = rows.filter(~drop)
        untitled = int(drop.sum())
    before = rows.height
    rows = _core(rows, min_user_rows, min_item_rows)
    left_out = LeftOut(0, int(again.sum()), untitled, before - rows.height)
    if rows.is_empty():
        raise DataError(
            "nothing is left of the log: "
            + ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in asdict(left_out).items())
            + "; ask for less with data.untitled, data.min_user_rows, data.min_item_rows"
        )
    users, user_ids = _compact(rows["user"], user_ids)
    items, item_ids = _compact(rows["item"], item_ids)
    return rows.with_columns(user=users, item=items), user_ids, item_ids, left_out


def _dense(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Distinct values in order, and the place of each row's value among them."""
    values = column.cat.get_categories()
    order = values.arg_sort()
    place = np.empty(len(order), dtype=np.int32)
    place[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    return values.gather(order), pl.Series(place[column.to_physical().to_numpy()])


def _same_as_next(rows: pl.DataFrame, name: str) -> NDArray[np.bool_]:
    column = rows[name].to_numpy()
    return np.append(column[:-1] == column[1:], False)


def _core(rows: pl.DataFrame, min_user_rows: int, min_item_rows: int) -> pl.DataFrame:
    """The largest part in which every user and item has enough rows."""
    if max(min_user_rows, min_item_rows) <= 1:
        return rows
    user, item = rows["user"].to_numpy(), rows["item"].to_numpy()
    kept = np.arange(len(user))
    while True:
        enough = (np.bincount(user)[user] >= min_user_rows) & (
            np.bincount(item)[item] >= min_item_rows
        )
        if enough.all():
            return rows if len(kept) == rows.height else rows[kept]
        kept, user, item = kept[enough], user[enough], item[enough]


def _compact(numbers: pl.Series, ids: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Numbers without gaps, in the same order, and the ids that are left."""
    found = np.zeros(len(ids), dtype=bool)
    found[numbers.to_numpy()] = True
    places = np.cumsum(found, dtype=np.int32) - 1
    return pl.Series(places[numbers.to_numpy()].astype(np.int32)), ids.filter(pl.Series(found))


def _split_facts(
    samples: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame
) -> dict[str, SplitFacts]:
    parts = {}
    cold = samples.select(
        "split",
        "label",
        "time",
        user=users["train_rows"].gather(samples["user"]) == 0,
        item=items["train_rows"].gather(samples["item"]) == 0,
    )
    for number, name in enumerate(SPLITS):
        part = cold.filter(pl.col("split") == number)
        first, last = part.select(pl.col("time").min(), last=pl.col("time").max()).row(0)
        parts[name] = SplitFacts(
            rows=part.height,
            positives=int(part["label"].sum()),
            first=first,
            last=last,
            cold_user_rows=int(part["user"].sum()),
            cold_item_rows=int(part["item"].sum()),
        )
    return parts
