"""Files and directories this program writes: complete or absent, and checked when read."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from polars.exceptions import PolarsError
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from corellarec.base.errors import ArtifactError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MANIFEST = "manifest.json"
T = TypeVar("T")


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Write a file that appears whole or not at all.

    The body writes the yielded file, which then takes its final name, on disk before it does. Where
    the body or the disk fails, what was written is removed and an old file stays.

    Raises:
        ArtifactError: If polars or safetensors cannot write it, as on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)  # a link in its place is not followed
    try:
        with _one_line(path):
            yield unfinished
        _sync(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    _sync(path.parent)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Errors of a writing library as one line."""
    try:
        yield
    except (SafetensorError, PolarsError) as error:
        raise ArtifactError(f"{path} cannot be written: {str(error).splitlines()[0]}") from error


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a directory
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    with whole(path) as unfinished:
        unfinished.write_text(text, "utf-8", newline="")


# A checksum in the first line covers the rest of a text file: a comment of TOML, a key of JSON.
_SEALED = re.compile(r'(?:\{\n "sha256": "|# sha256: )([0-9a-f]{64})(?:",)?\n(.*)', re.DOTALL)


def write_sealed(path: Path, text: str) -> None:
    """Write a text of JSON (an object over several lines) or TOML, with its checksum.

    The file stays JSON or TOML: the checksum is its first key or a comment. It guards against
    damage, not against people.
    """
    head, body = "# sha256: {}\n", text
    if path.suffix == ".json":
        head, body = '{{\n "sha256": "{}",\n', text.removeprefix("{\n")
    write_text(path, head.format(hashlib.sha256(body.encode()).hexdigest()) + body)


def read_sealed(path: Path, remedy: str) -> str:
    """The text of a file that :func:`write_sealed` wrote, checksum and all.

    Args:
        path: The file.
        remedy: What to do where it cannot be used, for messages.

    Raises:
        ArtifactError: If it is missing, damaged or changed, or has no checksum.
    """
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is not there: {remedy}") from error
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} is damaged (not UTF-8 text): {remedy}") from error
    found = _SEALED.fullmatch(text)
    if found is None:
        raise ArtifactError(
            f"{path} has no checksum: it is damaged, or an older version of corellarec wrote it: "
            f"{remedy}"
        )
    if hashlib.sha256(found[2].encode()).hexdigest() != found[1]:
        raise ArtifactError(f"{path} has changed since it was written: {remedy}")
    return text


def write_json(path: Path, value: "DataclassInstance") -> None:
    """Write a dataclass as JSON, which :func:`read_json` reads back equal.

    Fields may be what pydantic can write: numbers (NaN and infinity too), text, dates, tuples,
    mappings, and dataclasses or pydantic models of these.
    """
    write_text(path, to_json(value).decode())


def to_json(value: "DataclassInstance") -> bytes:
    """A dataclass as JSON, as :func:`write_json` writes it."""
    return (json.dumps(to_tree(value), indent=1) + "\n").encode()


def writes_again(path: Path) -> str:
    """The command that writes a file or directory of a run again, for messages."""
    runs = (above for above in path.parents if (above / "config.toml").is_file())
    run = next(runs, "RUN")
    return f"`corellarec run --resume --out {run}` writes it again"


def read_json(path: Path, kind: type[T], *, remedy: str = "") -> T:
    """Read a dataclass that :func:`write_json` wrote; types are checked, not converted.

    Args:
        path: The file.
        kind: The dataclass. Fields of the file that it has not are left out.
        remedy: What to do where the file cannot be used, for messages; by default it is deleted,
            and its run gone on with.

    Raises:
        ArtifactError: If the file is missing or damaged, or lacks a field or has one of another
            type, as another version of this program may have written it.
    """
    remedy = remedy or f"delete it; {writes_again(path)}"
    try:
        return from_json(path.read_bytes(), kind, path, remedy=remedy)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is not there: {remedy}") from error


def from_json(data: bytes, kind: type[T], place: object, *, remedy: str) -> T:
    """A dataclass from what :func:`to_json` made.

    Args:
        data: The JSON.
        kind: The dataclass, as for :func:`read_json`.
        place: Where it was read, for messages.
        remedy: What to do where it cannot be used, for messages.

    Raises:
        ArtifactError: If it is damaged, or lacks a field or has one of another type.
    """
    try:
        return TypeAdapter(kind).validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise ArtifactError(f"{place} is damaged: {remedy}") from error
        field = ".".join(map(str, first["loc"])) or "the whole"
        raise ArtifactError(
            f"{place} was written by another version of corellarec ({field}: {first['msg']}): "
            f"{remedy}"
        ) from error


def to_tree(value: "DataclassInstance") -> dict[str, Any]:
    """A dataclass as plain values, with NaN and infinity as they are."""
    return TypeAdapter(type(value)).dump_python(value, mode="json", warnings="error")


@contextmanager
def writing(
    directory: Path, facts: "Mapping[str, Any] | DataclassInstance | None" = None
) -> Iterator[Path]:
    """Write a directory that appears whole, with a manifest, or not at all.

    The body fills the yielded directory; afterwards ``manifest.json`` records ``facts`` and the
    SHA-256 of every file, and the directory takes its final name. A directory of that name is
    replaced. A process killed in between leaves only a hidden ``.NAME.unfinished``, which the
    next writer removes.

    Raises:
        ArtifactError: If polars or safetensors cannot write a file, as on a full disk.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        with _one_line(directory):
            yield unfinished
        write_manifest(unfinished, facts)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    if directory.exists():
        old = directory.with_name(f".{directory.name}.replaced")
        shutil.rmtree(old, ignore_errors=True)
        directory.rename(old)
        unfinished.rename(directory)
        shutil.rmtree(old)
    else:
        unfinished.rename(directory)
    _sync(directory.parent)


def write_manifest(
    directory: Path, facts: "Mapping[str, Any] | DataclassInstance | None" = None
) -> None:
    """Record facts and the SHA-256 of every file of a directory, all of it on disk."""
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p != directory / MANIFEST)
    manifest = {
        **(facts if isinstance(facts, Mapping) else to_tree(facts) if facts else {}),
        "files": {path.relative_to(directory).as_posix(): sha256(path) for path in files},
    }
    for path in files:
        _sync(path)
    write_sealed(directory / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def read_manifest(directory: Path, *, verify: bool = True) -> dict[str, Any]:
    """The manifest of a directory made by :func:`writing`; checks every file against it.

    Args:
        directory: The directory.
        verify: Whether to compare the files' checksums, too.

    Raises:
        ArtifactError: If the directory is not there or not complete, or a file has changed, or the
            manifest names one outside the directory.
    """
    if not (directory / MANIFEST).is_file():
        kind = "is incomplete (no manifest.json)" if directory.exists() else "is not there"
        raise ArtifactError(f"{directory} {kind}: {writes_again(directory)}")
    path, remedy = directory / MANIFEST, f"delete {directory}; {writes_again(directory)}"
    text = read_sealed(path, remedy)
    try:
        manifest = json.loads(text)
        files = TypeAdapter(dict[str, str]).validate_python(manifest["files"], strict=True)
    except (ValueError, KeyError, RecursionError) as error:  # a ValidationError is a ValueError
        raise ArtifactError(f"{path} is damaged: {remedy}") from error
    if not files:
        raise ArtifactError(f"{path} lists no files: {remedy}")
    for name, digest in files.items() if verify else ():
        _verify(directory, name, digest, remedy)
    return manifest


def _verify(directory: Path, name: str, digest: str, remedy: str) -> None:
    path = directory / name
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
        raise ArtifactError(f"{directory / MANIFEST} lists {name!r}, outside {directory}: {remedy}")
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: {remedy}")
    if not path.resolve().is_relative_to(directory.resolve()):
        raise ArtifactError(f"{path} is a link that leads outside {directory}: {remedy}")
    if sha256(path) != digest:
        raise ArtifactError(
            f"{path} has changed since it was written (its SHA-256 differs from {MANIFEST}): "
            f"{remedy}"
        )


def link(source: Path, target: Path) -> None:
    """Take over a directory made by :func:`writing`: same files, on disk once where that goes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(source, unfinished, copy_function=_link_or_copy)
    if target.exists():
        shutil.rmtree(target)
    unfinished.rename(target)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
