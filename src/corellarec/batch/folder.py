"""Where a job's files are: a directory, or a prefix of an object store.

A file of a job is small, at most a shard, and is read and written whole. In a directory it appears
under a temporary name first. In an object store it is put only if it is not there (conditional
put): of two processes that write the same file the first wins, and the other takes what is there.
Where a store has no conditional put, the last one wins, with the same content.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from corellarec.base.artifacts import sha256, whole
from corellarec.base.errors import ArtifactError, ConfigError, UnreachableError
from corellarec.base.frames import first_line
from corellarec.base.lock import locked
from corellarec.base.numbers import Count

if TYPE_CHECKING:
    from obstore.store import ObjectStore


class Folder(Protocol):
    """Files by names such as ``_done/000000.json``; ``str()`` is the path or URL.

    Attributes:
        exclusive: Whether :meth:`locked` keeps other processes out.
    """

    exclusive: ClassVar[bool]

    def place(self, name: str) -> str:
        """The path or URL of a file."""
        ...

    def read(self, name: str) -> bytes:
        """A file.

        Raises:
            ArtifactError: If it is not there.
        """
        ...

    def write(self, name: str, data: bytes) -> bytes:
        """Write a file that appears whole or not at all; returns what is there then."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, or all files below a name, if there are any."""
        ...

    def names(self) -> list[str]:
        """Names at the top that do not begin with a dot, in order."""
        ...

    def holds(self, name: str, size: int, checksum: str) -> bool:
        """Whether a file is there as it was written; an object by its size alone."""
        ...

    def local(self, name: str, scratch: Path) -> Path:
        """A file as one of this machine, if need be as a copy in ``scratch``."""
        ...

    def scratch(self) -> AbstractContextManager[Path]:
        """A directory of this machine while the body runs."""
        ...

    def locked(self, name: str, what: str, wait_s: float | None) -> AbstractContextManager[None]:
        """Keep other processes out while the body runs, where the folder is exclusive."""
        ...


def folder_of(place: str | Path) -> Folder:
    """A directory, or a prefix of an object store.

    Raises:
        ConfigError: If the URL's scheme is not known, or what it needs is not installed.
    """
    text = str(place)
    if not is_url(text):
        return LocalFolder(Path(text).absolute())
    _store(text)
    return StoredFolder(text.rstrip("/"))


def is_url(place: str) -> bool:
    """Whether a place is in an object store.

    Example:
        >>> is_url("s3://bucket/pairs"), is_url("pairs/day=1")
        (True, False)
    """
    return "://" in place


@dataclass(frozen=True)
class LocalFolder:
    """A directory of a file system, which all workers have under the same name."""

    root: Path
    exclusive: ClassVar[bool] = True

    def __str__(self) -> str:
        return str(self.root)

    def place(self, name: str) -> str:
        """The path of a file."""
        return str(self.root / name)

    def read(self, name: str) -> bytes:
        """A file."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError as error:
            raise ArtifactError(f"{self.root / name} is not there: score again") from error

    def write(self, name: str, data: bytes) -> bytes:
        """Write a file, on disk when this returns."""
        with whole(self.root / name) as unfinished:
            unfinished.write_bytes(data)
        return data

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return (self.root / name).exists()

    def remove(self, name: str) -> None:
        """Remove a file or a directory."""
        path = self.root / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Names in the directory, which is made if it is not there."""
        self.root.mkdir(parents=True, exist_ok=True)
        return sorted(path.name for path in self.root.iterdir() if path.name[0] != ".")

    def holds(self, name: str, size: int, checksum: str) -> bool:
        """Whether a file is there with this checksum."""
        path = self.root / name
        return path.is_file() and path.stat().st_size == size and sha256(path) == checksum

    def local(self, name: str, scratch: Path) -> Path:
        """The file itself."""
        return self.root / name

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory on the same disk."""
        path = self.root / "_work" / "scratch"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def locked(self, name: str, what: str, wait_s: float | None) -> AbstractContextManager[None]:
        """Hold the lock of a file."""
        return locked(self.root / name, what, wait_s=wait_s)


@dataclass(frozen=True)
class StoredFolder:
    """A prefix of an object store; every call may raise an UnreachableError."""

    url: str
    exclusive: ClassVar[bool] = False

    def __str__(self) -> str:
        return self.url

    def place(self, name: str) -> str:
        """The URL of an object."""
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes:
        """An object."""
        with self._reached(name) as store:
            return bytes(store.get(name).bytes())

    def write(self, name: str, data: bytes) -> bytes:
        """Put an object if it is not there; otherwise return the one that is."""
        from obstore.exceptions import AlreadyExistsError, NotSupportedError

        with self._reached(name) as store:
            try:
                store.put(name, data, mode="create")
            except AlreadyExistsError:
                return bytes(store.get(name).bytes())
            except (NotSupportedError, NotImplementedError):
                store.put(name, data)
        return data

    def exists(self, name: str) -> bool:
        """Whether there is an object of this name."""
        return self._size(name) is not None

    def remove(self, name: str) -> None:
        """Remove an object, or all below a prefix."""
        with self._reached(name) as store:
            below = [one["path"] for part in store.list(name) for one in part]
            if paths := below or ([name] if self.exists(name) else []):
                store.delete(paths)

    def names(self) -> list[str]:
        """Names below the prefix."""
        with self._reached("") as store:
            found = store.list_with_delimiter()
        paths = [*found["common_prefixes"], *(one["path"] for one in found["objects"])]
        names = (path.rpartition("/")[2] for path in paths)
        return sorted(name for name in names if not name.startswith("."))

    def holds(self, name: str, size: int, checksum: str) -> bool:
        """Whether an object is there with this size; the store has checksums of its own."""
        return self._size(name) == size

    def local(self, name: str, scratch: Path) -> Path:
        """A copy of the object."""
        path = scratch / name.replace("/", "-")
        path.write_bytes(self.read(name))
        return path

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary directory (``TMPDIR``)."""
        with tempfile.TemporaryDirectory(prefix="corellarec-") as name:
            yield Path(name)

    def locked(self, name: str, what: str, wait_s: float | None) -> AbstractContextManager[None]:
        """Nothing: an object store has no locks, and needs none here."""
        return nullcontext()

    def _size(self, name: str) -> int | None:
        with self._reached(name) as store:
            try:
                return store.head(name)["size"]
            except FileNotFoundError:
                return None

    @contextmanager
    def _reached(self, name: str) -> "Iterator[ObjectStore]":
        with _one_line(self.place(name)):
            yield _store(self.url)


@dataclass(frozen=True)
class InputFile:
    """A file of a job's input, as it was when the job began.

    Args:
        path: Its absolute path, or its URL.
        size: Bytes.
        version: What changes when it is written again: a time, or an object's ETag.
    """

    path: str
    size: Count
    version: str


def list_objects(url: str) -> list[InputFile]:
    """All objects below a URL, or the one that it names.

    Raises:
        UnreachableError: If the store refuses or cannot be reached.
    """
    root, _, name = url.rstrip("/").rpartition("/")
    if root.endswith("/"):  # a bucket
        root, name = url.rstrip("/"), ""
    with _one_line(url):
        store = _store(root)
        found = [one for part in store.list(name or None) for one in part]
        if not found and name:
            try:
                found = [store.head(name)]
            except FileNotFoundError:
                return []
    return [
        InputFile(f"{root}/{one['path']}", one["size"], one["e_tag"] or str(one["last_modified"]))
        for one in sorted(found, key=lambda one: one["path"])
    ]


@contextmanager
def _one_line(url: str) -> Iterator[None]:
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactError(f"{url} is not there: score again") from error
    except (BaseError, OSError, ValueError) as error:
        raise UnreachableError(f"{url}: {first_line(error)}") from error


@lru_cache
def _store(url: str) -> "ObjectStore":
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as error:
        raise ConfigError(f"{url} needs obstore: pip install 'corellarec[cloud]'") from error
    try:
        return from_url(url)
    except (BaseError, ValueError) as error:
        raise ConfigError(
            f"{url} cannot be used ({first_line(error)}): URLs begin with s3://, gs:// or abfs://"
        ) from error
