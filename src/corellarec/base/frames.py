"""Tables that callers bring: Polars, pandas, Arrow, or the path of a file."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from corellarec.base.errors import ConfigError, DataError
from corellarec.base.inputs import check_file

Table = Any
"""A Polars frame, a pandas or Arrow table, or the path of a CSV or Parquet file."""

DAMAGE = (
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,  # a failed assertion of Polars; not an Exception
    OSError,
    EOFError,
    zlib.error,
)
"""What reading a damaged file raises."""


SEPARATORS = (";", "\t", "|")
LONGEST_HEADER = 1 << 16  # bytes


@contextmanager
def readable(place: object) -> Iterator[None]:
    """Turn what reading a damaged file raises into a DataError that names the file."""
    try:
        yield
    except DAMAGE as error:
        raise DataError(f"{place} cannot be read: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its name where it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def as_frame(table: Table, name: str, columns: Sequence[str] = ()) -> pl.DataFrame:
    """A table as a Polars frame.

    Args:
        table: A Polars frame or lazy frame, a pandas data frame, anything with an Arrow stream
            (PyArrow, DuckDB, ...), or the path of a CSV or Parquet file.
        name: What messages call it.
        columns: Columns that it must have.

    Raises:
        DataError: If a file is missing or damaged, or a column is missing.
        ConfigError: If it is none of these.
    """
    if isinstance(table, str | Path):
        return read_table(Path(table), columns)
    if isinstance(table, pl.LazyFrame):
        with readable(name):
            table = table.collect()
    if not isinstance(table, pl.DataFrame):
        table = _converted(table, name)
    require_columns(table, name, columns)
    return table


def _converted(table: Table, name: str) -> pl.DataFrame:
    try:
        if type(table).__module__.partition(".")[0] == "pandas":
            return pl.from_pandas(table)
        if isinstance(table, dict) or hasattr(table, "__arrow_c_stream__"):
            return pl.DataFrame(table)
    except ImportError as error:
        raise ConfigError(f"{name}: pandas tables need PyArrow: pip install pyarrow") from error
    raise ConfigError(
        f"{name}: expected a Polars, pandas or Arrow table, or the path of a CSV or Parquet file, "
        f"found {type(table).__name__}"
    )


def require_columns(table: pl.DataFrame, name: str, columns: Sequence[str]) -> None:
    """Check that a table has columns, and one value a row in each.

    Raises:
        DataError: If one is missing, or holds lists, records or bytes.
    """
    check_schema(table.schema, name, columns)


def scan_table(path: Path, columns: Sequence[str] = ()) -> pl.LazyFrame:
    """A Parquet file, or a CSV file whose values stay text, to be read in batches.

    A CSV file whose first line has no comma may be separated by one of ``SEPARATORS``.

    Raises:
        DataError: If it is missing or damaged, or lacks one of ``columns``.
    """
    check_file(path)
    with readable(path):
        if path.suffix.lower() == ".parquet":
            table = pl.scan_parquet(path, glob=False)
        else:
            table = pl.scan_csv(path, separator=_separator(path), infer_schema=False, glob=False)
        schema = table.collect_schema()
    check_schema(schema, str(path), columns)
    return table


def _separator(path: Path) -> str:
    with path.open("rb") as file:
        names = file.readline(LONGEST_HEADER)
    found = (one for one in SEPARATORS if one.encode() in names)
    return "," if b"," in names else next(found, ",")


def check_schema(schema: pl.Schema, name: str, columns: Sequence[str]) -> None:
    """Check that a table of a schema has columns, and one value a row in each.

    Raises:
        DataError: If one is missing, or holds lists, records or bytes.
    """
    for column in columns:
        if column not in schema:
            raise DataError(f"{name}: no column {column!r}; found: {', '.join(schema)}")
        check_plain(schema[column], column, name)


def inner_type(kind: pl.DataType) -> pl.DataType:
    """The type of a list's elements; any other type as it is."""
    return kind.inner if isinstance(kind, pl.List | pl.Array) else kind  # pyright: ignore[reportReturnType]


def check_plain(kind: pl.DataType, column: str, name: str) -> None:
    """Refuse a column that holds anything but text, numbers, dates, or true and false.

    Raises:
        DataError: If it holds lists, records, bytes, objects or durations.
    """
    if kind.is_nested() or kind in (pl.Binary, pl.Object, pl.Duration):
        raise DataError(
            f"{name}: the column {column!r} holds {kind}; it takes text, numbers or dates, one in "
            "a row"
        )


def read_table(path: Path, columns: Sequence[str] = ()) -> pl.DataFrame:
    """A Parquet file, or a CSV file whose values stay text.

    Raises:
        DataError: If it is missing or damaged, or lacks one of ``columns``.
    """
    table = scan_table(path, columns)
    with readable(path):
        return table.collect()


def ids_of(table: pl.DataFrame, column: str, name: str, first_row: int = 1) -> pl.Series:
    """A column of ids as text: the form in which a log keeps them.

    Raises:
        DataError: If an id is missing, or the column holds neither text nor whole numbers.
    """
    ids = table[column]
    check_ids(ids.dtype, column, name)
    if ids.null_count():
        row = first_row + int(ids.is_null().arg_true()[0])
        raise DataError(f"{name}, row {row}: no {column}; {ids.null_count()} such row(s) in all")
    return ids.cast(pl.String)


def check_ids(kind: pl.DataType, column: str, name: str) -> None:
    """Refuse a column that holds neither text nor whole numbers: no id is of another type.

    Raises:
        DataError: If it does.
    """
    if not (kind.is_integer() or kind in (pl.String, pl.Categorical, pl.Enum)):
        raise DataError(
            f"{name}: the column {column!r} holds {kind}; ids are text or whole numbers: cast it "
            "first"
        )
