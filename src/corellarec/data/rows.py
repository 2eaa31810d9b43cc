"""Interactions as one typed table: fast where every row is good, line by line where one is not.

Polars reads the files in streaming fashion, ids becoming numbers on the way, into memory or into
files. If that meets a row that cannot be used, the files are read again line by line, so that the
first bad one can be named and all can be counted.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from corellarec.base.errors import DataError
from corellarec.base.frames import DAMAGE, first_line
from corellarec.data.row_files import RowFile, ValueKind, readable_batches
from corellarec.data.times import time_parser


@dataclass(frozen=True)
class Rows:
    """Interactions with ids as numbers.

    Args:
        frame: ``user``, ``item`` (uint32, places in the ids below), ``value`` (float32), ``time``
            (int64, microseconds since 1970) and perhaps ``split`` (str), in the order of the files;
            in memory or on disk.
        users, items: Their ids as text, in any order.
        height: How many rows there are.
        skipped: Bad rows left out.
        first_skipped: The first of them and what is wrong with it, or None.
        time_unit: Unit in which numeric times were read, or None.
    """

    frame: pl.LazyFrame
    users: pl.Series
    items: pl.Series
    height: int
    skipped: int
    first_skipped: str | None
    time_unit: str | None

    def named(self) -> pl.DataFrame:
        """The rows in memory, with ids as text."""
        rows = self.frame.collect()
        ids = {side: getattr(self, f"{side}s").gather(rows[side]) for side in ("user", "item")}
        return rows.with_columns(**ids)


class _Store:
    """Rows that become numbers, in memory or in the files of a directory."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._parts: list[pl.LazyFrame] = []
        # A series of each keeps the ids while no other has them.
        self._ids = {
            side: pl.Series(side, dtype=pl.Categorical(pl.Categories.random()))
            for side in ("user", "item")
        }

    def add(self, rows: pl.LazyFrame) -> None:
        """Take rows as :func:`_typed` gives them."""
        rows = rows.with_columns(
            pl.col(side).cast(ids.dtype).to_physical() for side, ids in self._ids.items()
        )
        if self._folder is None:
            self._parts.append(rows.collect(engine="streaming").lazy())
            return
        path = self._folder / f"{len(self._parts)}.parquet"
        rows.sink_parquet(path, compression="uncompressed")
        self._parts.append(pl.scan_parquet(path))

    @property
    def frame(self) -> pl.LazyFrame:
        """All rows."""
        return pl.concat(self._parts) if self._parts else pl.LazyFrame()

    def ids(self, side: str) -> pl.Series:
        """The text of each number."""
        return self._ids[side].cat.get_categories()


def read_rows(
    files: Sequence[RowFile],
    time_unit: str,
    skip: int | None,
    time_format: str | None = None,
    time_zone: str | None = None,
    folder: Path | None = None,
) -> Rows:
    """Read interactions.

    Args:
        files: Where they are.
        time_unit: Unit of numeric times: ``s``, ``ms``, ``us``, ``ns`` or ``auto``.
        skip: Bad rows that may be left out; None where no option can allow any.
        time_format: Format of times that are text.
        time_zone: Zone of times that name none.
        folder: Where rows are put, 20 bytes each; None: in memory.

    Raises:
        DataError: If there are more bad rows than ``skip``, or no rows.
    """
    read_times = partial(
        time_parser, time_unit=time_unit, time_format=time_format, time_zone=time_zone
    )
    store = _Store(folder)
    try:
        parse, unit = read_times(_sample(files))
        store.add(pl.concat(_typed(file.fast, file.value, parse) for file in files))
    except DAMAGE:
        return _read_slowly(files, read_times, skip, folder)
    frame = store.frame
    missing = frame.select(
        height=pl.len(),
        bad=pl.any_horizontal(pl.all().is_null()).sum(),
        blank=pl.all_horizontal(pl.all().is_null()).sum(),
    )
    height, bad, blank = missing.collect(engine="streaming").row(0)
    if bad > blank or any((store.ids(side) == "").any() for side in ("user", "item")):
        del store, frame
        return _read_slowly(files, read_times, skip, folder)
    return _rows(store, frame.drop_nulls() if blank else frame, height - blank, unit)


def _rows(
    store: _Store,
    frame: pl.LazyFrame,
    height: int,
    time_unit: str | None,
    skipped: int = 0,
    first_skipped: str | None = None,
) -> Rows:
    if not height:
        raise DataError("the log has no rows: nothing to prepare")
    users, items = store.ids("user"), store.ids("item")
    return Rows(frame, users, items, height, skipped, first_skipped, time_unit)


def _sample(files: Sequence[RowFile], rows: int = 1000) -> pl.DataFrame:
    return pl.concat(file.fast.head(rows).collect(engine="streaming") for file in files[:3])


def _typed(
    frame: pl.LazyFrame,
    kind: ValueKind,
    parse: Callable[[pl.Expr], pl.Expr],
) -> pl.LazyFrame:
    columns = frame.collect_schema()
    return frame.select(
        pl.col("user", "item").cast(pl.String),
        kind.parse(pl.col("value")).cast(pl.Float32).alias("value"),
        parse(pl.col("time")).alias("time"),
        *([pl.col("split").cast(pl.String)] if "split" in columns else []),
    )


def _read_slowly(
    files: Sequence[RowFile],
    read_times: partial[tuple[Callable[[pl.Expr], pl.Expr], str | None]],
    skip: int | None,
    folder: Path | None,
) -> Rows:
    """Every line looked at, bad ones named and counted."""
    store = _Store(folder)
    total, count, first, hint, unit, parse = 0, 0, None, "", None, None
    wanted = "a time of the years 1 to 9999"
    if form := read_times.keywords["time_format"]:
        wanted = f'a time in the format "{form}" (data.interactions.time_format)'
    for file in files:
        for batch in readable_batches(file):
            if parse is None:
                known = batch.filter(pl.col("problem").is_null())
                parse, unit = read_times(known, lenient=True)
            texts = [name for name in ("value", "time") if batch.schema[name] == pl.String]
            batch = batch.with_columns(pl.col(texts).str.strip_chars())
            typed = _typed(batch.lazy(), file.value, parse).collect()
            checked = batch.with_columns(problem=_problem(typed, batch, file.value, wanted))
            bad = checked.filter(pl.col("problem").is_not_null())
            if bad.height and first is None:
                row = bad.row(0, named=True)
                first = f"{file.name}, {file.unit} {row['line']}: {row['problem']}"
                hint = _hint(row, file.value)
            total += batch.height
            count += bad.height
            try:
                store.add(typed.filter(checked["problem"].is_null()).lazy())
            except pl.exceptions.PolarsError as error:  # what is read is in memory
                raise DataError(f"{folder} cannot be written: {first_line(error)}") from error
    if count > (skip or 0):
        allowed = f", and data.skip_bad_rows allows {skip}" if skip else ""
        remedy = "correct them, or leave them out"
        if skip is not None:
            remedy += f" with --skip-bad-rows {count}"
        if count > max(10, total / 10):
            remedy = f"of {total} rows: correct the file, or the settings that say how to read it"
        raise DataError(f"{first}; {count} such row(s) in all{allowed}: {hint or remedy}")
    return _rows(store, store.frame, total - count, unit, count, first)


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


def _problem(
    typed: pl.DataFrame, batch: pl.DataFrame, kind: ValueKind, wanted_time: str
) -> pl.Series:
    """Why each row cannot be used, or null."""
    problem = pl.when(pl.col("problem").is_not_null()).then(pl.col("problem"))
    for side in ("user", "item"):
        empty = typed[side].is_null() | (typed[side] == "")
        problem = problem.when(empty).then(pl.lit(f"no {side}"))
    for name, called, what in (
        ("value", kind.name, kind.what),
        ("time", "time", wanted_time),
    ):
        found = pl.col(name).cast(pl.String).fill_null("")
        problem = problem.when(typed[name].is_null()).then(
            pl.format("{} '{}' is not {}", pl.lit(called), found, pl.lit(what))
        )
    if "split" in typed.columns:
        problem = problem.when(typed["split"].is_null()).then(pl.lit("no split"))
    return batch.select(problem.otherwise(None).alias("problem"))["problem"]
