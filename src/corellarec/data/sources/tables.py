"""Your own log, from files or a database, as the configuration describes it."""

import dataclasses
from pathlib import Path

import polars as pl

from corellarec.base.errors import DataError
from corellarec.base.frames import DAMAGE, readable
from corellarec.base.inputs import check_file
from corellarec.config import DataConfig, InteractionsConfig
from corellarec.data.raw import NO_USERS, RawLog
from corellarec.data.row_files import RowFile, ValueKind, rating
from corellarec.data.rows import read_rows
from corellarec.data.sources.features import fields_of, read_features
from corellarec.data.sources.scan import own_files, scan_table
from corellarec.data.unpacked import check_unpacked

MOST_SHOWN = 20  # values in a message
YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")


def read_tables(config: DataConfig) -> RawLog:
    """Read the log that ``config.interactions``, ``items`` and ``users`` describe.

    Raises:
        ConfigError: If a section cannot be used.
        DataError: If a file or column is missing, or a line of the users or items malformed.
    """
    rows, items, users = config.interactions, config.items, config.users
    assert rows is not None
    assert items is not None
    for file in own_files(config):
        check_file(file)
        with readable(file):
            check_unpacked(file, config.max_unpacked_mb)
    files = _scan_log(rows)
    if rows.positive_values:
        _check_positive_values(files, rows)
    if rows.event:
        _check_events(files, rows)
    warnings: list[str] = []
    return RawLog(
        files=tuple(dataclasses.replace(file, value=_kind(rows)) for file in files),
        users=read_features(users, rows, "user", config.time_unit, warnings) if users else NO_USERS,
        items=read_features(items, rows, "item", config.time_unit, warnings),
        user_fields=fields_of(users) if users else (),
        item_fields=fields_of(items),
        labelled=rows.rating is None,
        weighted=rows.event is not None,
        time_unit=config.time_unit,
        time_format=rows.time_format,
        time_zone=rows.time_zone,
        warnings=tuple(warnings),
    )


def read_more_rows(config: InteractionsConfig, path: Path, time_unit: str) -> pl.DataFrame:
    """Interactions of another file, in the columns of one's own log.

    Returns:
        ``user``, ``item`` (str), ``rating`` or ``label`` (float), ``time`` (datetime, UTC).

    Raises:
        DataError: If a column is missing, or a row cannot be read.
    """
    log = config.model_copy(
        update={"files": str(path), "database": None, "query": None, "split": None}
    )
    files = [dataclasses.replace(file, value=_kind(log)) for file in _scan_log(log)]
    rows = read_rows(files, time_unit, None, log.time_format, log.time_zone).named()
    if log.is_implicit:  # a kind of events may have the weight 0
        rows = rows.filter(pl.col("value") > 0).with_columns(value=1.0)
    return rows.select(
        pl.col("user", "item").cast(pl.String),
        pl.col("value").alias("rating" if log.rating else "label"),
        pl.col("time").cast(pl.Datetime("us", "UTC")),
    )


def read_more_items(config: DataConfig, path: Path) -> pl.DataFrame:
    """``id``, ``title`` and features of the items of another file, in the columns of one's own.

    Raises:
        DataError: If a column is missing, or a line malformed.
    """
    assert config.items is not None
    assert config.interactions is not None
    items = config.items.model_copy(update={"files": str(path), "database": None, "query": None})
    return read_features(items, config.interactions, "item", config.time_unit, [])


def _scan_log(rows: InteractionsConfig) -> list[RowFile]:
    value = rows.event if rows.is_implicit else rows.rating or rows.label
    columns = {"user": rows.user, "item": rows.item, "value": value, "time": rows.time}
    if rows.split:
        columns["split"] = rows.split
    files = scan_table(rows, columns, "interactions")
    return files if value else [file.all_positive() for file in files]


def _kind(rows: InteractionsConfig) -> ValueKind:
    if rows.event:
        return _event(rows.event_weights)
    return rating(rows.decimal) if rows.rating else _label(rows.positive_values)


def _label(positive_values: tuple[str, ...] | None) -> ValueKind:
    def parse(value: pl.Expr) -> pl.Expr:
        text = value.cast(pl.String).str.strip_chars()
        if positive_values:
            return text.is_in(positive_values)
        text = text.str.to_lowercase()
        return pl.when(text.is_in(YES)).then(1.0).when(text.is_in(NO)).then(0.0)

    hint = "data.interactions.positive_values lists the values of the column that are positive"
    return ValueKind("label", "0 or 1", parse, "" if positive_values else hint)


def _event(weights: dict[str, float]) -> ValueKind:
    def parse(value: pl.Expr) -> pl.Expr:
        text = value.cast(pl.String).str.strip_chars()
        return text.replace_strict(weights, default=None, return_dtype=pl.Float32)

    return ValueKind("event", f"one of {', '.join(weights)}", parse)


def _values_found(files: list[RowFile]) -> list[str]:
    """The distinct values of a log, the most frequent first; none where it is damaged."""
    text = pl.col("value").cast(pl.String).str.strip_chars()
    try:
        counts = pl.concat(file.fast.select(text) for file in files).collect()["value"]
    except DAMAGE:  # which reading the rows will explain
        return []
    return counts.drop_nulls().value_counts(sort=True)["value"].to_list()


def _listed(values: list[str]) -> str:
    return ", ".join(values[:MOST_SHOWN]) + (" ..." if len(values) > MOST_SHOWN else "")


def _check_positive_values(files: list[RowFile], rows: InteractionsConfig) -> None:
    """Refuse a positive value that no row has."""
    found = _values_found(files)
    for value in rows.positive_values or ():
        if found and value not in found:
            raise DataError(
                f"data.interactions.positive_values: no row has {value!r} in the column "
                f"{rows.label!r}; found: {_listed(found)}"
            )


def _check_events(files: list[RowFile], rows: InteractionsConfig) -> None:
    """Refuse kinds of events without a weight, and weights of kinds that no row has."""
    found, place = _values_found(files), "data.interactions.event_weights"
    for kind in rows.event_weights:
        if found and kind not in found:
            raise DataError(
                f"{place}: no row has {kind!r} in the column {rows.event!r}; "
                f"found: {_listed(found)}"
            )
    if left := [kind for kind in found if kind not in rows.event_weights]:
        raise DataError(
            f"{place}: no weight for {_listed(left)} in the column {rows.event!r}: give each kind "
            "of event one; rows of weight 0 are left out"
        )
