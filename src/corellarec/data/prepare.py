"""Turn a raw log into the prepared log: sorted, labelled, split by time, ids made dense.

The prepared log is one directory:

    rows.parquet    user, item (int32: row numbers of the tables below), label (int8),
                    time (int64, seconds), split (int8: 0 train, 1 validation, 2 test),
                    sorted by (user, time, item)
    users.parquet   id, train_rows (int64, rows in the training split), each feature as text, and
                    FEATURE_code (int32, or list of int32)
    items.parquet   the same, and title
    manifest.json   what it was made from, what was counted, checksums

Code 0 means out of vocabulary; vocabularies hold what the training split shows, no more.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import polars as pl

from corellarec.artifacts import MANIFEST, read_manifest, writing
from corellarec.config import DataConfig
from corellarec.data.atomic import read_atomic
from corellarec.data.fetch import fetch_movielens_100k
from corellarec.data.movielens import read_movielens
from corellarec.data.raw import Field, Folder, RawLog
from corellarec.errors import ArtifactError, DataError

SPLITS = ("train", "validation", "test")
FORMAT = 2  # raised when the prepared log changes shape, so that old ones are made anew


def prepare(config: DataConfig, directory: Path) -> dict[str, Any]:
    """Prepare the log that ``config`` names into ``directory``; returns the manifest's facts.

    Does nothing where ``directory`` already holds the same source prepared with the same settings.

    Raises:
        DataError: If the source is missing, malformed, or cannot be split into usable parts.
        FetchError: If the default data set cannot be obtained.
    """
    start = time.perf_counter()
    path, layout = (
        (Path(config.path).expanduser(), config.source) if config.path else fetch_movielens_100k()
    )
    folder = Folder(path)
    key = _content_key(config, folder, layout)
    if (directory / MANIFEST).exists():
        try:
            facts = read_manifest(directory)
        except ArtifactError:
            facts = {}
        if facts.get("key") == key:
            return facts
    raw = read_atomic(folder) if layout == "atomic" else read_movielens(folder)
    _check_titles(raw)
    rows, dropped = _label_and_split(raw, config)
    train = rows.filter(pl.col("split") == 0)
    users = _encode(raw.users, raw.user_fields, "user_id", train["user"])
    items = _encode(raw.items, raw.item_fields, "item_id", train["item"])
    rows = (
        rows.join(_numbers(users, "user"), on="user", how="left")
        .join(_numbers(items, "item"), on="item", how="left")
        .sort("user_number", "time", "item_number")
        .select(
            user="user_number",
            item="item_number",
            label=pl.col("label").cast(pl.Int8),
            time="time",
            split=pl.col("split").cast(pl.Int8),
        )
    )
    facts = _facts(rows, users, items) | {
        "duplicates_dropped": dropped,
        "source": str(path),
        "layout": layout,
        "settings": config.model_dump(mode="json"),
        "user_fields": _layout(users, ("user_id", *_names(raw.user_fields))),
        "item_fields": _layout(items, ("item_id", *_names(raw.item_fields))),
        "key": key,
    }
    with writing(directory, facts) as unfinished:
        rows.write_parquet(unfinished / "rows.parquet")
        users.write_parquet(unfinished / "users.parquet")
        items.write_parquet(unfinished / "items.parquet")
    facts["seconds"] = round(time.perf_counter() - start, 2)
    return facts


def _content_key(config: DataConfig, folder: Folder, layout: str) -> str:
    digest = hashlib.sha256()
    settings = config.model_dump(mode="json", exclude={"path"}) | {"layout": layout}
    digest.update(json.dumps([FORMAT, settings], sort_keys=True).encode())
    if folder.path.is_file():
        with folder.path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    else:
        for name in sorted(folder.names):
            if (folder.path / name).is_file():
                digest.update(name.encode())
                digest.update(folder.read(name))
    return digest.hexdigest()


def _check_titles(raw: RawLog) -> None:
    untitled = raw.items.filter(pl.col("title").fill_null("").str.strip_chars() == "")
    if untitled.height:
        raise DataError(
            f"item {untitled['id'][0]!r} (line {untitled['line'][0]} of the items file) has no "
            f"title, which the language model reads; {untitled.height} such item(s) in all: "
            "give them titles or remove them"
        )


def _label_and_split(raw: RawLog, config: DataConfig) -> tuple[pl.DataFrame, int]:
    """Rows with ``label`` and ``split``, and how many duplicates were dropped."""
    for side, table in (("user", raw.users), ("item", raw.items)):
        repeated = table.filter(pl.col("id").is_duplicated())
        if repeated.height:
            raise DataError(f"{side} {repeated['id'][0]!r} is listed twice: keep one line for each")
        unknown = raw.rows.join(table, left_on=side, right_on="id", how="anti")
        if unknown.height:
            line = unknown.sort("line").row(0, named=True)
            raise DataError(
                f"line {line['line']} of the ratings names {side} {line[side]!r}, which the "
                f"{side}s file does not list; {unknown.height} such line(s) in all"
            )
    rows = raw.rows.unique(["user", "item", "time"], keep="last", maintain_order=True)
    if rows.is_empty():
        raise DataError("the log has no rows: nothing to prepare")
    times = rows["time"].sort()
    last = rows.height - 1
    train_end = times[min(last, round(rows.height * config.split[0]))]
    validation_end = times[min(last, round(rows.height * sum(config.split[:2])))]
    rows = rows.with_columns(
        label=pl.col("rating") >= config.positive_rating,
        split=(pl.col("time") >= train_end).cast(pl.Int8)
        + (pl.col("time") >= validation_end).cast(pl.Int8),
    )
    for number, name in enumerate(SPLITS):
        part = rows.filter(pl.col("split") == number)["label"]
        if part.is_empty():
            raise DataError(
                f"the {name} split is empty: the log's times do not allow data.split = "
                f"{list(config.split)} ({times.n_unique()} different times in {rows.height} rows)"
            )
        if part.n_unique() == 1:
            raise DataError(
                f"every label in the {name} split is {int(part[0])} with positive_rating = "
                f"{config.positive_rating}: choose a threshold or split that leaves both"
            )
    return rows, raw.rows.height - rows.height


def _names(fields: tuple[Field, ...]) -> list[str]:
    return sorted(field.name for field in fields)


def _encode(
    table: pl.DataFrame, fields: tuple[Field, ...], id_field: str, train_ids: pl.Series
) -> pl.DataFrame:
    """Sort entities by id and add the codes of every feature, most frequent in training first."""
    seen = train_ids.value_counts(name="count").rename({train_ids.name: "id"})
    table = (
        table.sort("id").join(seen, on="id", how="left").with_columns(pl.col("id").alias(id_field))
    )
    for field in (Field(id_field), *fields):
        counted = table.filter(pl.col("count").is_not_null()).select(
            pl.col(field.name).alias("token"), "count"
        )
        codes = (
            (counted.explode("token") if field.multi else counted)
            .filter(pl.col("token").is_not_null() & (pl.col("token") != ""))
            .group_by("token")
            .agg(pl.col("count").sum())
            .sort(["count", "token"], descending=[True, False])
            .select("token", code=pl.int_range(1, pl.len() + 1, dtype=pl.Int32))
        )
        tokens, numbers = codes["token"].to_list(), codes["code"].to_list()
        coded = pl.element() if field.multi else pl.col(field.name)
        coded = coded.replace_strict(tokens, numbers, default=0, return_dtype=pl.Int32)
        if field.multi:
            coded = pl.col(field.name).list.eval(coded)
        table = table.with_columns(coded.alias(f"{field.name}_code"))
    table = table.with_columns(pl.col("count").fill_null(0).cast(pl.Int64).alias("train_rows"))
    keep = ["id", *(["title"] if "title" in table.columns else []), "train_rows"]
    names = [id_field, *_names(fields)]
    return table.select(*keep, *names[1:], *(f"{name}_code" for name in names))


def _numbers(table: pl.DataFrame, side: str) -> pl.DataFrame:
    return table.select(
        pl.col("id").alias(side), pl.int_range(pl.len(), dtype=pl.Int32).alias(f"{side}_number")
    )


def _layout(table: pl.DataFrame, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Name, vocabulary size (with code 0) and width (most values of one entity) of each feature."""
    layout = []
    for name in names:
        column = table[f"{name}_code"]
        multi = column.dtype == pl.List
        flat = column.explode() if multi else column
        layout.append(
            {
                "name": name,
                "vocabulary": int(flat.max() or 0) + 1,  # pyright: ignore[reportArgumentType]
                "width": int(column.list.len().max() or 1) if multi else 1,  # pyright: ignore[reportArgumentType]
            }
        )
    return layout


def _facts(rows: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame) -> dict[str, Any]:
    parts = {}
    for number, name in enumerate(SPLITS):
        part = rows.filter(pl.col("split") == number)
        cold_user = users["user_id_code"].gather(part["user"]) == 0
        cold_item = items["item_id_code"].gather(part["item"]) == 0
        parts[name] = {
            "rows": part.height,
            "positives": int(part["label"].sum()),
            "from": part["time"].min(),
            "to": part["time"].max(),
            "cold_user_rows": int(cold_user.sum()),
            "cold_item_rows": int(cold_item.sum()),
        }
    return {
        "rows": rows.height,
        "users": rows["user"].n_unique(),
        "items": rows["item"].n_unique(),
        "positives": int(rows["label"].sum()),
        "splits": parts,
    }
