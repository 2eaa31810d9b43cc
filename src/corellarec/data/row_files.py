"""Kinds of files that hold interactions: delimited text, JSON lines, Parquet and queries.

Every kind is read in two ways: fast, by Polars, and slowly, line by line, so that a bad line can
be named.
"""

import ast
import csv
import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO, TextIOWrapper
from itertools import count, islice
from pathlib import Path
from typing import Any

import polars as pl

from corellarec.base.errors import DataError
from corellarec.base.frames import check_ids, check_plain, readable

SLOW_ROWS = 200_000  # rows held at once as Python objects
LONGEST_LINE = 1 << 24  # characters
# With points between them; 0.125 is none, 0.125,5 is.
THOUSANDS = r"^\s*[-+]?([1-9]\d{0,2}(\.\d{3})+|\d{1,3}(\.\d{3})+,\d*)\s*$"
Source = Path | BytesIO


@dataclass(frozen=True)
class ValueKind:
    """What the column ``value`` holds.

    Args:
        name: What messages call it.
        what: What they say is expected.
        parse: Turns text or numbers into floats, and into null what it cannot read.
        hint: What else may be meant, and the setting for it.
    """

    name: str
    what: str
    parse: Callable[[pl.Expr], pl.Expr]
    hint: str = ""


def rating(decimal: str = ".") -> ValueKind:
    """Ratings, as text with this decimal separator."""

    def parse(value: pl.Expr) -> pl.Expr:
        number = plain_number(value, decimal).cast(pl.Float32, strict=False)
        return pl.when(number.is_finite()).then(number)

    return ValueKind("rating", "a number", parse)


def plain_number(value: pl.Expr, decimal: str) -> pl.Expr:
    """Numbers with a decimal comma, and points between thousands, as text without; others as is."""
    if decimal == ".":
        return value
    text = value.cast(pl.String)
    whole = pl.when(text.str.contains(THOUSANDS)).then(text.str.replace_all(".", "", literal=True))
    return whole.otherwise(text).str.replace(",", ".", literal=True)


RATING = rating()


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
        exact: Whether ``fast`` splits every good line as ``slow`` does: it takes a ``:`` within a
            value for half of the separator ``::``.
    """

    name: str
    fast: pl.LazyFrame
    slow: Callable[[], Iterator[pl.DataFrame]]
    unit: str = "line"
    value: ValueKind = RATING
    exact: bool = True

    def all_positive(self) -> "RowFile":
        """A file without the column ``value`` as one in which it is 1."""
        one = pl.lit("1").alias("value")
        return replace(
            self,
            fast=self.fast.with_columns(one),
            slow=lambda: (batch.with_columns(one) for batch in self.slow()),
        )


def readable_batches(file: RowFile) -> Iterator[pl.DataFrame]:
    """The batches of ``file.slow``.

    Raises:
        DataError: If the file is damaged.
    """
    with readable(file.name):
        yield from file.slow()


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
    step = len(separator)
    quoted = quoted and step == 1
    # "::" is read as ":" with an empty column between any two.
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
    return RowFile(name, fast, slow, exact=step == 1)


def header_of(source: Source, separator: str) -> list[str]:
    """The names in the first line of delimited text."""
    if len(separator) > 1:
        first = next(read_lines(source), "").rstrip("\r\n").split(separator)
    else:
        first = next((row for _, row, _ in _split(read_lines(source), separator)), [])
    return [name.strip().removeprefix("\ufeff") for name in first]


def _split(
    lines: Iterable[str], separator: str, *, quoted: bool = True
) -> Iterator[tuple[int, list[str], str | None]]:
    """Number, values and problem (or None) of each line."""
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=separator, quoting=quoting)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, [""], str(error)
        else:
            yield reader.line_num, row, None


def read_lines(source: Source, encoding: str = "utf-8-sig") -> Iterator[str]:
    """Lines of text, ends included; what is not in ``encoding`` becomes U+FFFD.

    The default is UTF-8 with or without a byte order mark.

    Raises:
        OSError: If the file cannot be read, or a line has more than ``LONGEST_LINE`` characters.
    """
    if isinstance(source, Path) and source.suffix.lower() == ".zst":
        yield from (line + "\n" for line in pl.scan_lines(source).collect()["lines"])
        return
    if isinstance(source, Path):
        is_gzip = source.suffix.lower() == ".gz"
        stream = gzip.open(source) if is_gzip else source.open("rb")  # noqa: SIM115 (closed below)
    else:
        stream = BytesIO(source.getvalue())
    with stream, TextIOWrapper(stream, encoding, errors="replace", newline="") as text:  # pyright: ignore[reportArgumentType]
        for number in count(1):
            line = text.readline(LONGEST_LINE)
            if len(line) == LONGEST_LINE:
                raise OSError(f"line {number} has more than {LONGEST_LINE:,} characters")
            if not line:
                return
            yield line


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
        numbered = _split(lines, separator, quoted=quoted)
    else:
        numbered = (
            (number, line.rstrip("\r\n").split(separator), None)
            for number, line in enumerate(lines, start=1)
        )
    expected = f"({separator.join(names)})".replace("\t", "<tab>")

    def check(row: list[str]) -> str | None:
        if len(row) != len(names):
            return f"{len(row)} values where {len(names)} are expected {expected}"
        if any("\ufffd" in value for value in row):
            return "not UTF-8 text (the setting encoding names another one, such as latin-1)"
        return None

    rows = (
        (
            number,
            problem or check(row),
            *(row[i] if i < len(row) else None for i in places.values()),
        )
        for number, row, problem in islice(numbered, header_lines, None)
        if problem or any(row)
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
        problem = "a list, not a JSON object a line" if line[0] == "[" else "not a JSON object"
        try:
            texts = [_text(found.get(key)) for key in columns.values()]
        except ValueError as error:  # half a character, or a number of 5,000 digits
            return [str(error), *[None] * len(columns)]
        return [None if found else problem, *texts]

    def slow() -> Iterator[pl.DataFrame]:
        lines = enumerate(read_lines(source), start=1)
        rows = ((number, *values(line)) for number, line in lines if line.strip())
        yield from _batches(rows, columns)

    return RowFile(name, fast, slow)


def _text(value: object) -> str | None:
    """A value as text that UTF-8 can hold."""
    return None if value is None else str(value).encode().decode()


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
        DataError: If it is damaged, or a column missing or of a type that it cannot be.
    """
    with readable(name):
        schema = frame.collect_schema()
    for ours, theirs in columns.items():
        if theirs not in schema:
            raise DataError(f"{name}: no column {theirs!r}; found: {', '.join(schema)}")
        if ours in ("user", "item", "id"):
            check_ids(schema[theirs], theirs, name)
        elif ours in ("value", "time", "split"):
            check_plain(schema[theirs], theirs, name)
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
