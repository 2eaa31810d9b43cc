"""Vectors of items from a file of their own, such as text embeddings."""

from dataclasses import replace
from pathlib import Path

import polars as pl

from corellarec.base.errors import DataError
from corellarec.base.frames import ids_of, read_table
from corellarec.data.features import check_fields
from corellarec.data.raw import Field, RawLog

NAME = "vector"


def with_vectors(raw: RawLog, path: Path) -> RawLog:
    """The log with the feature ``vector`` of items, from a Parquet file of ``item`` and ``vector``.

    Raises:
        ConfigError: If the items have a feature ``vector`` already.
        DataError: If the file is missing or damaged, lacks a column, lists an item twice, holds
            vectors of different lengths, or has no item of the log.
    """
    table = read_table(path, ("item",))
    kind = table.schema.get(NAME)
    if kind is None:
        raise DataError(f"{path}: no column {NAME!r}; found: {', '.join(table.columns)}")
    if not isinstance(kind, pl.List | pl.Array) or not kind.inner.is_numeric():
        raise DataError(f"{path}: the column vector holds {kind}, not lists of numbers")
    table = table.select(
        ids_of(table, "item", str(path)).alias("id"), pl.col(NAME).cast(pl.List(pl.Float64))
    )
    lengths = table[NAME].list.len().drop_nulls().unique().sort()
    if len(lengths) != 1 or not lengths[0]:
        raise DataError(
            f"{path}: vectors must have one length, found {', '.join(map(str, lengths.head(3)))}"
        )
    if table["id"].is_duplicated().any():
        repeated = table.filter(pl.col("id").is_duplicated())["id"][0]
        raise DataError(f"{path}: item {repeated!r} is listed twice: keep one line for each")
    if not table["id"].is_in(raw.items["id"].implode()).any():
        raise DataError(
            f"{path}: none of its items is among the log's: it has {table['id'][0]!r}, the log "
            f"{raw.items['id'][0]!r}"
        )
    check_fields((*raw.item_fields, Field(NAME, "vector")), "items")
    items = raw.items.drop(NAME, strict=False)  # a column of the source that is no feature
    items = items.join(table, on="id", how="left", maintain_order="left")
    return replace(raw, items=items, item_fields=(*raw.item_fields, Field(NAME, "vector")))
