"""Interactions from files: fast where every row is good, line by line where one is not.

Polars reads the files in streaming fashion, ids becoming numbers on the way. If that meets a row
that cannot be used, the files are read again line by line, so that the first bad one can be named
and all can be counted.
"""

import ast
import csv
import gzip
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from corellarec.base.errors import DataError

SLOW_ROWS = 200_000  # rows held at once as Python objects
SECOND = 1_000_000  # microseconds
UNITS = {"s": SECOND, "ms": 1_000, "us": 1, "ns": 0.001}
TIME_FORMATS = (
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d",
)
Source = Path | BytesIO


@dataclass(frozen=True)
class ValueKind:
    """What the column ``value`` holds.

    Args:
        name: What messages call it.
        what: What they say is expected.
        parse: Turns text or numbers into floats, and into null what it cannot read.
    """

    name: str
    what: str
    parse: Callable[[pl.Expr], pl.Expr]


def _number(value: pl.Expr) -> pl.Expr:
    number = value.cast(pl.Float32, strict=False)
    return pl.when(number.is_finite()).then(number)


RATING = ValueKind("rating", "a number", _number)


@dataclass(frozen=True)
class RowFile:
    """One file of interactions, or the answer to one query.

    Args:
        name: What messages call it.
        fast: Columns ``user``, ``item``, ``value``, ``time`` and perhaps ``split``, text or typed;
            running it may raise a Polars error.
        slow: The same columns as text, with ``line`` (from 1) and ``problem`` (null, or why the
            line cannot be split into values), in batches; empty lines are left out.
        unit: What ``line`` counts, for messages.
    """

    name: str
    fast: pl.LazyFrame
    slow: Callable[[], Iterator[pl.DataFrame]]
    unit: str = "line"
    value: ValueKind = RATING


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


@contextmanager
def readable(place: str) -> Iterator[None]:
    """Turn what goes wrong while a file is read into a DataError that names it."""
    try:
        yield
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{place} cannot be read ({error}): fetch it again") from error
    except Exception as error:  # zlib.error has no public base class but Exception
        if type(error).__module__ != "zlib":
            raise
        raise DataError(f"{place} is damaged ({error}): fetch it again") from error


def read_rows(files: Sequence[RowFile], time_unit: str, skip: int) -> Rows:
    """Read interactions.

    Args:
        files: Where they are.
        time_unit: Unit of numeric times: ``s``, ``ms``, ``us``, ``ns`` or ``auto``.
        skip: Bad rows that may be left out.

    Raises:
        DataError: If there are more bad rows than ``skip``, or no rows.
    """
    users, items = pl.Categories.random(), pl.Categories.random()
    try:
        parse, unit = time_parser(_sample(files), time_unit)
        table = pl.concat(
            _typed(file.fast, file.value, parse, users, items) for file in files
        ).collect(engine="streaming")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        return _read_slowly(files, time_unit, skip, users, items)
    incomplete = pl.any_horizontal(pl.all().is_null())
    bad = table.filter(incomplete)
    blank = bad.filter(pl.all_horizontal(pl.all().is_null())).height
    empty = any((table[side].cat.get_categories() == "").any() for side in ("user", "item"))
    if bad.height > blank or empty:
        return _read_slowly(files, time_unit, skip, users, items)
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


def time_parser(
    sample: pl.DataFrame, time_unit: str, *, lenient: bool = False
) -> tuple[Callable[[pl.Expr], pl.Expr], str | None]:
    """How to turn the column ``time`` into microseconds, going by a sample; and the unit.

    Where the sample holds whole numbers, others are not read, unless ``lenient``.
    """
    times = sample["time"].drop_nulls()
    if times.dtype.is_temporal():
        return lambda time: time.dt.epoch("us"), None
    if times.dtype == pl.String:
        times = times.str.strip_chars()
        times = times.filter(times != "")
        numbers = times.cast(pl.Float64, strict=False)
        if numbers.null_count() > len(times) / 2:
            return _date_parser(times), None
        whole = times.cast(pl.Int64, strict=False).null_count() == 0
    else:
        numbers, whole = times.cast(pl.Float64), times.dtype.is_integer()
    if time_unit == "auto":
        size = abs(numbers.median() or 0.0)  # pyright: ignore[reportArgumentType, reportCallIssue]
        # 1e11 seconds is the year 5138, 1e11 milliseconds is 1973.
        time_unit = next(
            unit
            for unit, limit in (("s", 1e11), ("ms", 1e14), ("us", 1e17), ("ns", float("inf")))
            if size < limit
        )

    def parse(time: pl.Expr) -> pl.Expr:
        number = time.cast(pl.Int64, strict=False)
        exact = number // 1000 if time_unit == "ns" else number * int(UNITS[time_unit])
        rounded = (time.cast(pl.Float64, strict=False) * UNITS[time_unit]).round()
        rounded = rounded.cast(pl.Int64, strict=False)
        if lenient:
            return pl.coalesce(exact, rounded)
        return exact if whole else rounded

    return parse, time_unit


def _date_parser(times: pl.Series) -> Callable[[pl.Expr], pl.Expr]:
    def parse(pattern: str) -> pl.Series:
        return times.str.to_datetime(pattern, strict=False, time_zone=_zone(pattern))

    found = min(TIME_FORMATS, key=lambda pattern: parse(pattern).null_count())
    return lambda time: (
        time.str.strip_chars()
        .str.to_datetime(found, strict=False, time_unit="us", time_zone=_zone(found))
        .cast(pl.Int64)
    )


def _zone(pattern: str) -> str | None:
    return "UTC" if "%#z" in pattern else None


def _read_slowly(
    files: Sequence[RowFile],
    time_unit: str,
    skip: int,
    users: pl.Categories,
    items: pl.Categories,
) -> Rows:
    """Every line looked at, bad ones named and counted."""
    good, count, first, unit, parse = [], 0, None, None, None
    for file in files:
        for batch in _readable_batches(file):
            if parse is None:
                known = batch.filter(pl.col("problem").is_null())
                parse, unit = time_parser(known, time_unit, lenient=True)
            texts = [name for name in ("value", "time") if batch.schema[name] == pl.String]
            batch = batch.with_columns(pl.col(texts).str.strip_chars())
            typed = _typed(batch.lazy(), file.value, parse, users, items).collect()
            checked = batch.with_columns(problem=_problem(typed, batch, file.value))
            bad = checked.filter(pl.col("problem").is_not_null())
            if bad.height and first is None:
                row = bad.row(0, named=True)
                first = f"{file.name}, {file.unit} {row['line']}: {row['problem']}"
            count += bad.height
            good.append(typed.filter(checked["problem"].is_null()))
    if count > skip:
        allowed = f", and data.skip_bad_rows allows {skip}" if skip else ""
        raise DataError(
            f"{first}; {count} such row(s) in all{allowed}: correct them, or leave them out with "
            f"--skip-bad-rows {count}"
        )
    if not good:
        raise DataError("the log has no rows: nothing to prepare")
    return Rows(_not_empty(pl.concat(good)), count, first, unit)


def _readable_batches(file: RowFile) -> Iterator[pl.DataFrame]:
    with readable(file.name):
        yield from file.slow()


def _problem(typed: pl.DataFrame, batch: pl.DataFrame, kind: ValueKind) -> pl.Series:
    """Why each row cannot be used, or null."""
    problem = pl.when(pl.col("problem").is_not_null()).then(pl.col("problem"))
    for side in ("user", "item"):
        empty = typed[side].is_null() | (typed[side].cast(pl.String) == "")
        problem = problem.when(empty).then(pl.lit(f"no {side}"))
    for name, called, what in (("value", kind.name, kind.what), ("time", "time", "a time")):
        found = pl.col(name).cast(pl.String).fill_null("")
        problem = problem.when(typed[name].is_null()).then(
            pl.format("{} '{}' is not {}", pl.lit(called), found, pl.lit(what))
        )
    if "split" in typed.columns:
        problem = problem.when(typed["split"].is_null()).then(pl.lit("no split"))
    return batch.select(problem.otherwise(None).alias("problem"))["problem"]


# Kinds of files.


def delimited_file(
    source: Source,
    *,
    name: str,
    separator: str,
    columns: Mapping[str, str | int],
    header: Sequence[str] | None = None,
    quoted: bool = True,
) -> RowFile:
    """A file of delimited text.

    Args:
        source: Path (``.gz`` and ``.zst`` too) or bytes, in UTF-8.
        name: What messages call it.
        separator: One character, or ``::``.
        columns: For each of our columns, the file's: its name where the first line is a header,
            else its place from 0.
        header: Names of the columns where the file has no first line that says so.
        quoted: Whether values may stand in double quotes.
    """
    with readable(name):
        names = list(header) if header else header_of(source, separator)
    for theirs in columns.values():
        if isinstance(theirs, str) and names.count(theirs) != 1:
            count = "two columns" if theirs in names else "no column"
            raise DataError(f"{name}, line 1: {count} {theirs!r}; found: {', '.join(names)}")
    places = {
        ours: names.index(theirs) if isinstance(theirs, str) else theirs
        for ours, theirs in columns.items()
    }
    step = len(separator)  # "::" is read as ":" with an empty column between any two
    scanned = pl.scan_csv(
        source,
        separator=separator[0],
        has_header=False,
        skip_lines=0 if header else 1,
        schema={str(i): pl.String for i in range((len(names) - 1) * step + 1)},
        quote_char='"' if quoted else None,
    )
    fast = scanned.select(pl.col(str(place * step)).alias(ours) for ours, place in places.items())
    slow = lambda: _split_slowly(  # noqa: E731
        source, separator, names, places, header_lines=0 if header else 1, quoted=quoted
    )
    return RowFile(name, fast, slow)


def header_of(source: Source, separator: str) -> list[str]:
    """The names in the first line of delimited text."""
    first = next(iter(csv.reader(read_lines(source), delimiter=separator)), [])
    return [name.strip().removeprefix("\ufeff") for name in first]


def read_lines(source: Source, encoding: str = "utf-8") -> Iterator[str]:
    """Lines of text, ends included; what is not in ``encoding`` becomes U+FFFD."""
    if isinstance(source, Path) and source.suffix.lower() == ".zst":
        yield from (line + "\n" for line in pl.scan_lines(source).collect()["lines"])
        return
    if isinstance(source, Path):
        stream = gzip.open(source) if source.suffix.lower() == ".gz" else source.open("rb")
    else:
        stream = BytesIO(source.getvalue())
    with stream, TextIOWrapper(stream, encoding, errors="replace", newline="") as text:  # pyright: ignore[reportArgumentType]
        yield from text


def _split_slowly(
    source: Source,
    separator: str,
    names: Sequence[str],
    places: Mapping[str, int],
    *,
    header_lines: int,
    quoted: bool,
) -> Iterator[pl.DataFrame]:
    lines = read_lines(source)
    if len(separator) == 1:
        quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
        reader = csv.reader(lines, delimiter=separator, quoting=quoting)
        numbered = ((reader.line_num, row) for row in reader)
    else:
        numbered = (
            (number, line.rstrip("\r\n").split(separator))
            for number, line in enumerate(lines, start=1)
        )
    expected = f"({separator.join(names)})".replace("\t", "<tab>")

    def check(row: list[str]) -> str | None:
        if len(row) != len(names):
            return f"{len(row)} values where {len(names)} are expected {expected}"
        if any("\ufffd" in value for value in row):
            return "not UTF-8 text"
        return None

    rows = (
        (number, check(row), *(row[i] if i < len(row) else None for i in places.values()))
        for number, row in islice(numbered, header_lines, None)
        if any(row)
    )
    yield from _batches(rows, places)


def json_file(source: Source, *, name: str, columns: Mapping[str, str]) -> RowFile:
    """A file of JSON objects, one a line; Python's own notation is read, too.

    Args:
        source: Path (``.gz`` and ``.zst`` too) or bytes.
        name: What messages call it.
        columns: For each of our columns, the name of the value in an object.
    """
    scanned = pl.scan_ndjson(source, schema=dict.fromkeys(columns.values(), pl.String))
    fast = scanned.select(pl.col(theirs).alias(ours) for ours, theirs in columns.items())

    def values(line: str) -> list[str | None]:
        found = parse_object(line)
        texts = [None if found.get(key) is None else str(found[key]) for key in columns.values()]
        problem = "a list, not a JSON object a line" if line[0] == "[" else "not a JSON object"
        return [None if found else problem, *texts]

    def slow() -> Iterator[pl.DataFrame]:
        lines = enumerate(read_lines(source), start=1)
        rows = ((number, *values(line)) for number, line in lines if line.strip())
        yield from _batches(rows, columns)

    return RowFile(name, fast, slow)


def parse_object(line: str) -> dict[str, Any]:
    """The object that a line holds in JSON or in Python's notation; empty if it holds none."""
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(line)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, dict):
            return value
    return {}


def frame_file(frame: pl.LazyFrame, *, name: str, columns: Mapping[str, str]) -> RowFile:
    """Rows of a Parquet file or of a query's answer.

    Raises:
        DataError: If a column is missing.
    """
    found = frame.collect_schema().names()
    for theirs in columns.values():
        if theirs not in found:
            raise DataError(f"{name}: no column {theirs!r}; found: {', '.join(found)}")
    fast = frame.select(pl.col(theirs).alias(ours) for ours, theirs in columns.items())

    def slow() -> Iterator[pl.DataFrame]:
        numbered = fast.with_row_index("line", 1).with_columns(
            problem=pl.lit(None, dtype=pl.String)
        )
        yield from numbered.collect().iter_slices(SLOW_ROWS)

    return RowFile(name, fast, slow, unit="row")


def _batches(rows: Iterable[tuple[Any, ...]], names: Iterable[str]) -> Iterator[pl.DataFrame]:
    """Tuples (line, problem, *text) as tables."""
    schema = {"line": pl.Int64, "problem": pl.String} | dict.fromkeys(names, pl.String)
    stream = iter(rows)
    while batch := list(islice(stream, SLOW_ROWS)):
        yield pl.DataFrame(batch, schema=schema, orient="row")
