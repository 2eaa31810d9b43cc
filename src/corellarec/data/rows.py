"""Interactions as one typed table: fast where every row is good, line by line where one is not.

Polars reads the files in streaming fashion, ids becoming numbers on the way. If that meets a row
that cannot be used, the files are read again line by line, so that the first bad one can be named
and all can be counted.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl

from corellarec.base.errors import DataError
from corellarec.base.frames import DAMAGE
from corellarec.data.row_files import RowFile, ValueKind, readable_batches
from corellarec.data.times import time_parser


@dataclass(frozen=True)
class Rows:
    """Interactions with ids as numbers.

    Args:
        table: ``user``, ``item`` (categorical), ``value`` (float32), ``time`` (int64,
            microseconds since 1970) and perhaps ``split`` (str), in the order of the files.
        skipped: Bad rows left out.
        first_skipped: The first of them and what is wrong with it, or None.
        time_unit: Unit in which numeric times were read, or None.
    """

    table: pl.DataFrame
    skipped: int
    first_skipped: str | None
    time_unit: str | None


def read_rows(
    files: Sequence[RowFile],
    time_unit: str,
    skip: int,
    time_format: str | None = None,
    time_zone: str | None = None,
) -> Rows:
    """Read interactions.

    Args:
        files: Where they are.
        time_unit: Unit of numeric times: ``s``, ``ms``, ``us``, ``ns`` or ``auto``.
        skip: Bad rows that may be left out.
        time_format: Format of times that are text.
        time_zone: Zone of times that name none.

    Raises:
        DataError: If there are more bad rows than ``skip``, or no rows.
    """
    users, items = pl.Categories.random(), pl.Categories.random()
    read_times = partial(
        time_parser, time_unit=time_unit, time_format=time_format, time_zone=time_zone
    )
    try:
        parse, unit = read_times(_sample(files))
        table = pl.concat(
            _typed(file.fast, file.value, parse, users, items) for file in files
        ).collect(engine="streaming")
    except DAMAGE:
        return _read_slowly(files, read_times, skip, users, items)
    incomplete = pl.any_horizontal(pl.all().is_null())
    bad = table.filter(incomplete)
    blank = bad.filter(pl.all_horizontal(pl.all().is_null())).height
    empty = any((table[side].cat.get_categories() == "").any() for side in ("user", "item"))
    if bad.height > blank or empty:
        return _read_slowly(files, read_times, skip, users, items)
    return Rows(_not_empty(table.filter(~incomplete) if blank else table), 0, None, unit)


def _not_empty(table: pl.DataFrame) -> pl.DataFrame:
    if table.is_empty():
        raise DataError("the log has no rows: nothing to prepare")
    return table


def _sample(files: Sequence[RowFile], rows: int = 1000) -> pl.DataFrame:
    return pl.concat(file.fast.head(rows).collect(engine="streaming") for file in files[:3])


def _typed(
    frame: pl.LazyFrame,
    kind: ValueKind,
    parse: Callable[[pl.Expr], pl.Expr],
    users: pl.Categories,
    items: pl.Categories,
) -> pl.LazyFrame:
    columns = frame.collect_schema()
    return frame.select(
        pl.col("user").cast(pl.String).cast(pl.Categorical(users)),
        pl.col("item").cast(pl.String).cast(pl.Categorical(items)),
        kind.parse(pl.col("value")).cast(pl.Float32).alias("value"),
        parse(pl.col("time")).alias("time"),
        *([pl.col("split").cast(pl.String)] if "split" in columns else []),
    )


def _read_slowly(
    files: Sequence[RowFile],
    read_times: Callable[..., tuple[Callable[[pl.Expr], pl.Expr], str | None]],
    skip: int,
    users: pl.Categories,
    items: pl.Categories,
) -> Rows:
    """Every line looked at, bad ones named and counted."""
    good, total, count, first, hint, unit, parse = [], 0, 0, None, "", None, None
    for file in files:
        for batch in readable_batches(file):
            if parse is None:
                known = batch.filter(pl.col("problem").is_null())
                parse, unit = read_times(known, lenient=True)
            texts = [name for name in ("value", "time") if batch.schema[name] == pl.String]
            batch = batch.with_columns(pl.col(texts).str.strip_chars())
            typed = _typed(batch.lazy(), file.value, parse, users, items).collect()
            checked = batch.with_columns(problem=_problem(typed, batch, file.value))
            bad = checked.filter(pl.col("problem").is_not_null())
            if bad.height and first is None:
                row = bad.row(0, named=True)
                first = f"{file.name}, {file.unit} {row['line']}: {row['problem']}"
                hint = _hint(row, file.value)
            total += batch.height
            count += bad.height
            good.append(typed.filter(checked["problem"].is_null()))
    if count > skip:
        allowed = f", and data.skip_bad_rows allows {skip}" if skip else ""
        remedy = f"correct them, or leave them out with --skip-bad-rows {count}"
        if count > max(10, total / 10):
            remedy = f"of {total} rows: correct the file, or the settings that say how to read it"
        raise DataError(f"{first}; {count} such row(s) in all{allowed}: {hint or remedy}")
    if not good:
        raise DataError("the log has no rows: nothing to prepare")
    return Rows(_not_empty(pl.concat(good)), count, first, unit)


def _hint(row: dict[str, Any], kind: ValueKind) -> str:
    """The setting that reads a bad row of tables of one's own, if it is known."""
    problem, value, time = row["problem"], str(row["value"]), str(row["time"])
    if problem.startswith("rating ") and re.fullmatch(r"[\d.]+,\d+", value):
        return 'decimal commas are read with data.interactions.decimal = ","'
    if problem.startswith("label "):
        return kind.hint
    if problem.startswith("time ") and (parts := re.match(r"(\d\d?)([./-])(\d\d?)\2\d{4}", time)):
        first, mark, second = parts.groups()
        order = "%m{0}%d" if int(second) > 12 else "%d{0}%m"
        form = f"{order.format(mark)}{mark}%Y" + (" %H:%M:%S" if time.count(":") > 1 else "")
        form += " %H:%M" if time.count(":") == 1 else ""
        either = " (or month first)" if int(first) <= 12 >= int(second) else ""
        return f'such times are read with data.interactions.time_format = "{form}"{either}'
    return ""


def _problem(typed: pl.DataFrame, batch: pl.DataFrame, kind: ValueKind) -> pl.Series:
    """Why each row cannot be used, or null."""
    problem = pl.when(pl.col("problem").is_not_null()).then(pl.col("problem"))
    for side in ("user", "item"):
        empty = typed[side].is_null() | (typed[side].cast(pl.String) == "")
        problem = problem.when(empty).then(pl.lit(f"no {side}"))
    for name, called, what in (
        ("value", kind.name, kind.what),
        ("time", "time", "a time of the years 1 to 9999"),
    ):
        found = pl.col(name).cast(pl.String).fill_null("")
        problem = problem.when(typed[name].is_null()).then(
            pl.format("{} '{}' is not {}", pl.lit(called), found, pl.lit(what))
        )
    if "split" in typed.columns:
        problem = problem.when(typed["split"].is_null()).then(pl.lit("no split"))
    return batch.select(problem.otherwise(None).alias("problem"))["problem"]
