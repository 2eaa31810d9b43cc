"""A log as its source gives it, and the reader of delimited text that names bad lines."""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from corellarec.errors import DataError


@dataclass(frozen=True)
class Field:
    """A categorical feature of users or items.

    Args:
        name: Column name in the user or item table.
        multi: Whether a value is a list of tokens (genres) or a single token.
    """

    name: str
    multi: bool = False


@dataclass(frozen=True)
class RawLog:
    """A log with its users and items; ids and feature values are still text.

    Args:
        rows: One row an interaction: ``user``, ``item`` (str), ``rating`` (float), ``time``
            (int, seconds).
        users: One row a user: ``id`` (str) and the columns of ``user_fields`` (str).
        items: One row an item: ``id``, ``title`` (str) and the columns of ``item_fields``
            (str, or list of str where ``multi``).
        user_fields: Features of users beside the id.
        item_fields: Features of items beside the id.
    """

    rows: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame
    user_fields: tuple[Field, ...]
    item_fields: tuple[Field, ...]


class Folder:
    """A directory, or a zip read in place, addressed by file name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise DataError(f"{path} is not there: give data.path a directory or zip that is")
        if path.is_dir():
            self.names = [file.relative_to(path).as_posix() for file in path.rglob("*")]
            return
        try:
            with zipfile.ZipFile(path) as archive:
                self.names = archive.namelist()
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{path} is not a whole zip file ({error}): fetch it again") from error

    def find(self, name: str) -> str | None:
        """The path within of the file whose last part is ``name``, or None."""
        found = [path for path in self.names if path.rpartition("/")[2] == name]
        return min(found, key=len) if found else None

    def suffix(self, suffix: str) -> str | None:
        """The path within of the only file that ends in ``suffix``, or None."""
        found = [path for path in self.names if path.endswith(suffix)]
        if len(found) > 1:
            raise DataError(
                f"{self.path} has {len(found)} files ending in {suffix} "
                f"({', '.join(sorted(found)[:3])}): keep one log in a folder"
            )
        return found[0] if found else None

    def read(self, name: str) -> bytes:
        """The bytes of the file at path ``name`` within.

        Raises:
            DataError: If the file is absent, or damaged within its zip.
        """
        if self.path.is_dir():
            with _readable(f"{self.path / name}"):
                return (self.path / name).read_bytes()
        with _readable(f"{self.path}: {name}"), zipfile.ZipFile(self.path) as archive:
            return archive.read(name)


@contextmanager
def _readable(place: str) -> Iterator[None]:
    try:
        yield
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{place} cannot be read ({error}): fetch it again") from error
    except Exception as error:  # zlib.error has no public base class but Exception
        if type(error).__module__ != "zlib":
            raise
        raise DataError(f"{place} is damaged ({error}): fetch it again") from error


def read_delimited(
    content: bytes,
    *,
    name: str,
    separator: str,
    columns: Sequence[str],
    header_lines: int = 0,
    encoding: str = "utf-8",
) -> pl.DataFrame:
    """Split lines of text into columns of text, adding ``line``, the line number from 1.

    Args:
        content: The file's bytes.
        name: The file's name, for messages.
        separator: Text between two values, of any length.
        columns: Names of the values in a line.
        header_lines: Lines to skip at the top.
        encoding: Encoding of the text.

    Raises:
        DataError: If a line has more or fewer values than ``columns``, or the text is not in
            ``encoding``.
    """
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}, line {line}: not {encoding} text") from error
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []
    table = pl.DataFrame({"text": lines[header_lines:]}, schema={"text": pl.String})
    table = table.with_row_index("line", offset=header_lines + 1)
    count = pl.col("text").str.count_matches(separator, literal=True) + 1
    bad = table.filter(count != len(columns))
    if bad.height:
        line, text = bad.row(0)
        found = text.count(separator) + 1
        expected = separator.join(columns).replace("\t", "<tab>")
        raise DataError(
            f"{name}, line {line}: {found} values where {len(columns)} are expected ({expected}); "
            f"{bad.height} such line(s) in all"
        )
    parts = pl.col("text").str.split(separator)
    return table.select(
        *(parts.list.get(i).alias(column) for i, column in enumerate(columns)), "line"
    )


def to_number(table: pl.DataFrame, column: str, kind: type[pl.DataType], name: str) -> pl.DataFrame:
    """Cast a column of text to a number, naming the first line that is not one.

    Raises:
        DataError: If a value is not a finite number.
    """
    value = pl.col(column).str.strip_chars().cast(pl.Float64, strict=False)
    bad = table.filter(~value.is_finite().fill_null(value=False))
    if bad.height:
        raise DataError(
            f"{name}, line {bad['line'][0]}: {column} {bad[column][0]!r} is not a number; "
            f"{bad.height} such line(s) in all"
        )
    return table.with_columns(value.cast(kind).alias(column))
