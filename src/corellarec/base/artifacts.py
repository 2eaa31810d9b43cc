"""Directories this program writes: complete or absent, and checked when read."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from corellarec.base.errors import ArtifactError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MANIFEST = "manifest.json"
T = TypeVar("T")


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def write_json(path: Path, value: "DataclassInstance") -> None:
    """Write a dataclass as JSON, which :func:`read_json` reads back equal.

    Fields may be what pydantic can write: numbers (NaN and infinity too), text, dates, tuples,
    mappings, and dataclasses or pydantic models of these.
    """
    write_text(path, json.dumps(to_tree(value), indent=1) + "\n")


def read_json(
    path: Path,
    kind: type[T],
    *,
    remedy: str = "delete it and run the command that writes it again",
) -> T:
    """Read a dataclass that :func:`write_json` wrote; types are checked, not converted.

    Args:
        path: The file.
        kind: The dataclass. Fields of the file that it has not are left out.
        remedy: What to do where the file cannot be used, for messages.

    Raises:
        ArtifactError: If the file is missing or damaged, or lacks a field or has one of another
            type, as another version of this program may have written it.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is not there: {remedy}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise ArtifactError(f"{path} is damaged: {remedy}") from error
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ArtifactError(
            f"{path} was written by another version of corellarec ({place}: {first['msg']}): "
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
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    yield unfinished
    files = sorted(path for path in unfinished.rglob("*") if path.is_file())
    manifest = {
        **(facts if isinstance(facts, Mapping) else to_tree(facts) if facts else {}),
        "files": {path.relative_to(unfinished).as_posix(): sha256(path) for path in files},
    }
    write_text(unfinished / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if directory.exists():
        old = directory.with_name(f".{directory.name}.replaced")
        shutil.rmtree(old, ignore_errors=True)
        directory.rename(old)
        unfinished.rename(directory)
        shutil.rmtree(old)
    else:
        unfinished.rename(directory)


def read_manifest(directory: Path, *, verify: bool = True) -> dict[str, Any]:
    """The manifest of a directory made by :func:`writing`; checks every file against it.

    Args:
        directory: The directory.
        verify: Whether to compare the files' checksums, too.

    Raises:
        ArtifactError: If the directory is not there or not complete, or a file has changed.
    """
    if not (directory / MANIFEST).is_file():
        kind = "is incomplete (no manifest.json)" if directory.exists() else "is not there"
        raise ArtifactError(f"{directory} {kind}: run the command that writes it again")
    try:
        manifest = json.loads((directory / MANIFEST).read_text("utf-8"))
        files = dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{directory / MANIFEST} is damaged: delete {directory} and run again"
        ) from error
    for name, digest in files.items() if verify else ():
        path = directory / name
        if not path.is_file():
            raise ArtifactError(f"{path} is missing: delete {directory} and run again")
        if sha256(path) != digest:
            raise ArtifactError(
                f"{path} has changed since it was written (its SHA-256 differs from "
                f"{MANIFEST}): delete {directory} and run again"
            )
    return manifest


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
