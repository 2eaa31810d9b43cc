"""A log as its source gives it: files of interactions, and tables of users and items."""

import os
import struct
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from lzma import LZMAError
from pathlib import Path
from typing import Literal

import polars as pl

from corellarec.base.errors import DataError
from corellarec.base.frames import first_line, readable
from corellarec.base.inputs import check_file
from corellarec.config import DataConfig
from corellarec.data.row_files import RowFile
from corellarec.data.unpacked import check_size, check_unpacked

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
        unrated: That the files hold neither ratings nor labels, in words; all rows are positive.
        weighted: Whether the values are weights in training: of positives, or 0.
        time_unit: Unit of numeric times; ``auto`` goes by their size.
        time_format: Format of times that are text, where it is given.
        time_zone: Zone of times that name none, where it is given.
        warnings: What in the tables of users and items is probably not what was meant.
    """

    files: tuple[RowFile, ...]
    users: pl.DataFrame
    items: pl.DataFrame
    user_fields: tuple[Field, ...]
    item_fields: tuple[Field, ...]
    labelled: bool = False
    unrated: str | None = None
    weighted: bool = False
    time_unit: TimeUnit = "s"
    time_format: str | None = None
    time_zone: str | None = None
    warnings: tuple[str, ...] = ()


HEAD = 1 << 16  # bytes of a file that show its layout
MOST_ENTRIES = 100_000  # files and folders of a log's directory
NO_USERS = pl.DataFrame(schema={"id": pl.String})


class Folder:
    """A directory, or a zip read in place, addressed by file name.

    Args:
        path: Where it is.
        most_mb: ``data.max_unpacked_mb``.

    Raises:
        DataError: If it is neither, damaged, or a directory of more files than a log's.
    """

    def __init__(self, path: Path, most_mb: int = DataConfig().max_unpacked_mb) -> None:
        self.path, self.most_mb = path, most_mb
        if path.is_dir():
            with readable(path):
                self.names = list(_files_below(path))
            return
        check_file(path)
        with _whole_zip(path), zipfile.ZipFile(path) as archive:
            self.names = archive.namelist()

    def find(self, name: str) -> str | None:
        """The path within of the file whose last part is ``name``, or None."""
        found = [path for path in self.names if path.rpartition("/")[2] == name]
        return min(found, key=lambda path: (len(path), path)) if found else None

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
            DataError: If the file is absent or no regular one, damaged within its zip, encrypted,
                or would unpack to far more than it is.
        """
        if self.path.is_dir():
            check_file(self.path / name)
            with readable(f"{self.path / name}"):
                return (self.path / name).read_bytes()
        place = f"{self.path}: {name}"
        with _whole_zip(place), zipfile.ZipFile(self.path) as archive:
            member = self._member(archive, name)
            packed = min(member.compress_size, self.path.stat().st_size)
            check_size(place, member.file_size, packed, self.most_mb)
            return archive.read(member)

    def head(self, name: str) -> list[str]:
        """The first lines of the file at path ``name`` within; what is not UTF-8 is U+FFFD.

        Raises:
            DataError: If the file is no regular one, or damaged or encrypted within its zip.
        """
        if self.path.is_dir():
            check_file(self.path / name)
            with readable(self.path / name), (self.path / name).open("rb") as file:
                content = file.read(HEAD)
        else:
            with (
                _whole_zip(f"{self.path}: {name}"),
                zipfile.ZipFile(self.path) as archive,
                archive.open(self._member(archive, name)) as file,
            ):
                content = file.read(HEAD)
        lines = content.decode("utf-8", "replace").splitlines()
        return lines[:-1] if len(content) == HEAD else lines  # the last one may be cut

    def _member(self, archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
        member = archive.getinfo(name)
        if member.flag_bits & 1:
            raise DataError(
                f"{self.path}: {name} is encrypted: unpack it, and give data.path its folder"
            )
        return member

    def source(self, name: str) -> Path | BytesIO:
        """What polars can scan: the file itself, or its bytes where it lies in a zip."""
        if not self.path.is_dir():
            return BytesIO(self.read(name))
        check_file(self.path / name)
        with readable(self.path / name):
            check_unpacked(self.path / name, self.most_mb)
        return self.path / name


@contextmanager
def _whole_zip(place: object) -> Iterator[None]:
    """Turn what a damaged zip raises into a DataError that names it."""
    try:
        yield
    except (
        zipfile.BadZipFile, NotImplementedError, OSError, EOFError, KeyError, OverflowError,
        ValueError, struct.error, zlib.error, LZMAError,
    ) as error:  # fmt: skip
        raise DataError(
            f"{place} is not a whole zip file ({first_line(error)}): fetch it again, or give "
            "data.path the directory that holds the file"
        ) from error


def _files_below(path: Path) -> Iterator[str]:
    """Names of the files below a directory; links to directories are not followed."""
    folders, seen = deque([(os.fspath(path), "")]), 0
    while folders:
        folder, name = folders.popleft()
        try:
            with os.scandir(folder) as scanned:
                entries = list(islice(scanned, MOST_ENTRIES + 1 - seen))
        except OSError:
            if not name:
                raise
            continue  # a folder that is not ours to read
        seen += len(entries)
        if seen > MOST_ENTRIES:
            raise DataError(
                f"{path} holds more than {MOST_ENTRIES:,} files: give data.path the directory of "
                "the log itself"
            )
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append((entry.path, f"{name}{entry.name}/"))
            else:
                yield name + entry.name
