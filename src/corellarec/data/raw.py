"""A log as its source gives it: files of interactions, and tables of users and items."""

import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import polars as pl

from corellarec.base.errors import DataError
from corellarec.data.row_files import RowFile, readable

TimeUnit = Literal["auto", "s", "ms", "us", "ns"]


@dataclass(frozen=True)
class Field:
    """A feature of users or items.

    Args:
        name: Column name in the user or item table.
        kind: ``categorical``: one token; ``multi``: a list of tokens (genres); ``numeric``: a
            float; ``vector``: a list of floats, equally long for all.
    """

    name: str
    kind: Literal["categorical", "multi", "numeric", "vector"] = "categorical"


@dataclass(frozen=True)
class RawLog:
    """A log with its users and items; ids and tokens are still text.

    Args:
        files: The interactions.
        users: One row a user: ``id`` (str) and the columns of ``user_fields``.
        items: One row an item: ``id``, ``title`` (str) and the columns of ``item_fields``.
        user_fields: Features of users beside the id.
        item_fields: Features of items beside the id.
        labelled: Whether values are labels, 0 or 1, and not ratings.
        time_unit: Unit of numeric times; ``auto`` goes by their size.
    """

    files: tuple[RowFile, ...]
    users: pl.DataFrame
    items: pl.DataFrame
    user_fields: tuple[Field, ...]
    item_fields: tuple[Field, ...]
    labelled: bool = False
    time_unit: TimeUnit = "s"


NO_USERS = pl.DataFrame(schema={"id": pl.String})


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
            raise DataError(
                f"{path} is not a whole zip file ({error}): fetch it again, or give data.path the "
                "directory that holds the file"
            ) from error

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
            with readable(f"{self.path / name}"):
                return (self.path / name).read_bytes()
        with readable(f"{self.path}: {name}"), zipfile.ZipFile(self.path) as archive:
            return archive.read(name)

    def source(self, name: str) -> Path | BytesIO:
        """What polars can scan: the file itself, or its bytes where it lies in a zip."""
        return self.path / name if self.path.is_dir() else BytesIO(self.read(name))
