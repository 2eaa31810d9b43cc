"""Names of table files, and CSV or Parquet files written whole."""

import io
from pathlib import Path
from typing import BinaryIO

import polars as pl

from corellarec.base.artifacts import whole
from corellarec.base.errors import DataError

COMPRESSED = (".gz", ".zst")
WRITERS = {".csv": pl.LazyFrame.sink_csv, ".parquet": pl.LazyFrame.sink_parquet}


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


def write_table(table: pl.DataFrame | pl.LazyFrame, path: Path) -> None:
    """Write a CSV or Parquet file that appears whole or not at all.

    Args:
        table: A lazy frame is written batch by batch.
        path: Ends in ``.csv`` or ``.parquet``; replaced if it exists.

    Raises:
        OSError, ArtifactError: If the disk is full or not writable.
    """
    with whole(path) as unfinished, unfinished.open("wb") as file:
        WRITERS[path.suffix.lower()](table.lazy(), _Checked(file))


class _Checked(io.RawIOBase):
    """Takes what polars writes; its own CSV writer ignores an error of the last write."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._file.write(data)
