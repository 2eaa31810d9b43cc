"""Tables that callers bring: Polars, pandas, Arrow, or the path of a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from corellarec.base.errors import ConfigError, DataError

Table = Any
"""A Polars frame, a pandas or Arrow table, or the path of a CSV or Parquet file."""


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
    """Check that a table has columns.

    Raises:
        DataError: If one is missing.
    """
    for column in columns:
        if column not in table.columns:
            raise DataError(f"{name}: no column {column!r}; found: {', '.join(table.columns)}")


def scan_table(path: Path, columns: Sequence[str] = ()) -> pl.LazyFrame:
    """A Parquet file, or a CSV file whose values stay text, to be read in batches.

    Raises:
        DataError: If it is missing or damaged, or lacks one of ``columns``.
    """
    if not path.is_file():
        raise DataError(f"{path} is not there")
    try:
        if path.suffix.lower() == ".parquet":
            table = pl.scan_parquet(path, glob=False)
        else:
            table = pl.scan_csv(path, infer_schema=False, glob=False)
        found = table.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    for column in columns:
        if column not in found:
            raise DataError(f"{path}: no column {column!r}; found: {', '.join(found)}")
    return table


def read_table(path: Path, columns: Sequence[str] = ()) -> pl.DataFrame:
    """A Parquet file, or a CSV file whose values stay text.

    Raises:
        DataError: If it is missing or damaged, or lacks one of ``columns``.
    """
    try:
        return scan_table(path, columns).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def ids_of(table: pl.DataFrame, column: str, name: str) -> pl.Series:
    """A column of ids as text: the form in which a log keeps them.

    Raises:
        DataError: If an id is missing, or the column holds neither text nor whole numbers.
    """
    ids = table[column]
    if not (ids.dtype.is_integer() or ids.dtype in (pl.String, pl.Categorical, pl.Enum)):
        raise DataError(
            f"{name}: the column {column!r} holds {ids.dtype}; ids are text or whole numbers: "
            f"cast it first"
        )
    if ids.null_count():
        row = int(ids.is_null().arg_true()[0]) + 1
        raise DataError(f"{name}, row {row}: no {column}; {ids.null_count()} such row(s) in all")
    return ids.cast(pl.String)
