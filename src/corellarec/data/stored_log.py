"""The tables of a log as they are stored: rows, users and items, checked when they are read."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from corellarec.base.stored import read_stored, unusable
from corellarec.data.levels import FIRST
from corellarec.data.preparation import FeatureLayout, Features, ValueLayout
from corellarec.data.splits import HISTORY_ONLY

ROWS = {
    "user": pl.Int32(),
    "item": pl.Int32(),
    "label": pl.Int8(),
    "time": pl.Datetime("us", "UTC"),
    "split": pl.Int8(),
}
MICROSECONDS = 1_000_000
YEAR_1, YEAR_10000 = -62_135_596_800 * MICROSECONDS, 253_402_300_800 * MICROSECONDS
ENTITIES = {"id": pl.String(), "train_rows": pl.Int64()}


def read_tables(
    directory: Path, features: Features
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Rows, users and items of a stored log.

    Args:
        directory: Holds ``rows.parquet``, ``users.parquet`` and ``items.parquet``.
        features: The features and their places in the tables.

    Raises:
        ArtifactError: If a table is missing or damaged, or a value cannot be one of a log with
            these features.
    """
    users = _entities(directory / "users.parquet", features.user, features.user_values)
    items = _entities(directory / "items.parquet", features.item, features.item_values)
    if items.schema.get("title") != pl.String:
        raise unusable(directory / "items.parquet", "has no titles")
    path = directory / "rows.parquet"
    rows = read_stored(path, ROWS)
    if not rows["user"].is_sorted():
        raise unusable(path, "its rows are not in the order of the users")
    _within(path, rows["user"], 0, users.height - 1)
    _within(path, rows["item"], 0, items.height - 1)
    _within(path, rows["label"], 0, 1)
    _within(path, rows["split"], 0, HISTORY_ONLY)
    _within(path, rows["time"].to_physical(), YEAR_1, YEAR_10000 - 1)
    if "weight" in rows.columns:
        if rows.schema["weight"] != pl.Float32 or rows["weight"].null_count():
            raise unusable(path, f"the column 'weight' holds {rows.schema['weight']}, not Float32")
        _within(path, rows["weight"], 0, 1_000_000)
    if "level" in rows.columns:
        if rows.schema["level"] != pl.Int8 or rows["level"].null_count():
            raise unusable(path, f"the column 'level' holds {rows.schema['level']}, not Int8")
        _within(path, rows["level"], 0, FIRST + len(features.ratings) - 1)
    for name, table in (("users", users), ("items", items)):
        _within(directory / f"{name}.parquet", table["train_rows"], 0, rows.height)
    return rows, users, items


def _entities(
    path: Path, codes: Sequence[FeatureLayout], values: Sequence[ValueLayout]
) -> pl.DataFrame:
    """The table of users or items."""
    table = read_stored(path, ENTITIES)
    if table["id"].n_unique() < max(1, table.height):
        raise unusable(path, "has no rows, or an id twice")
    for feature in codes:
        column = _column(path, table, f"{feature.name}_code", pl.Int32(), feature.width)
        _within(path, column, 0, feature.vocabulary - 1)
    for feature in values:
        column = _column(path, table, f"{feature.name}_values", pl.Float32(), feature.width)
        if not column.is_finite().all():
            raise unusable(path, f"the column {column.name!r} holds values that are not finite")
    return table


def _column(path: Path, table: pl.DataFrame, name: str, kind: pl.DataType, width: int) -> pl.Series:
    """All values of a column of single values, or of arrays of ``width``."""
    found = table.schema.get(name)
    if found != pl.Array(kind, width) and (width > 1 or found != kind):
        raise unusable(path, f"the column {name!r} holds {found}, not {kind} ({width} each)")
    column = table[name]
    column = column.arr.explode() if isinstance(found, pl.Array) else column
    if column.null_count():
        raise unusable(path, f"the column {name!r} has missing values")
    return column


def _within(path: Path, column: pl.Series, low: int, high: int) -> None:
    """Refuse a column with values beyond its limits."""
    if len(column) and not bool(column.is_between(low, high).all()):
        raise unusable(
            path,
            f"the column {column.name!r} goes from {column.min()} to {column.max()}, and its "
            f"values are from {low} to {high}",
        )
