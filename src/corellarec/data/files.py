"""Names of table files, and CSV or Parquet files written whole."""

from pathlib import Path

import polars as pl

from corellarec.base.errors import DataError

COMPRESSED = (".gz", ".zst")
WRITERS = {".csv": pl.DataFrame.write_csv, ".parquet": pl.DataFrame.write_parquet}


def ending(path: Path) -> str:
    """What a file's name ends in, in lower case and without ``.gz`` or ``.zst``: ``.csv``."""
    bare = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return bare.suffix.lower()


def check_name(path: Path) -> None:
    """Refuse a name that :func:`write_table` cannot write, before any work is done.

    Raises:
        DataError: If it ends in neither ``.csv`` nor ``.parquet``.
    """
    if path.suffix.lower() not in WRITERS:
        raise DataError(f"{path}: the name must end in .csv or .parquet")


def write_table(table: pl.DataFrame, path: Path) -> None:
    """Write a CSV or Parquet file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    WRITERS[path.suffix.lower()](table, unfinished)
    unfinished.replace(path)
