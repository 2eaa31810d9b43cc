"""The input of a job: Parquet files of the same columns, here or in an object store."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import polars as pl

from corellarec.base.errors import DataError
from corellarec.base.frames import check_schema, readable
from corellarec.batch.folder import InputFile, is_url, list_objects
from corellarec.cascade.cascade import Cascade
from corellarec.cascade.tables import OUTPUT_COLUMNS

OURS = "corellarec."  # columns of a shard that are not the input's
HIDDEN = ("_", ".")


def input_files(source: str) -> list[InputFile]:
    """The Parquet files of a job, in order of their names.

    Args:
        source: A file, a directory (its files ``*.parquet``, at any depth), a pattern such as
            ``in/day=*/*.parquet``, or the URL of one of these. Names that begin with ``_`` or ``.``
            are left out.

    Raises:
        DataError: If there are none.
        UnreachableError: If an object store refuses or cannot be reached.
    """
    files = _objects(source) if is_url(source) else _local(source)
    if not files:
        raise DataError(
            f"{source}: no Parquet file there: give a file, a directory of *.parquet files, or a "
            "pattern in quotes"
        )
    return files


def _local(source: str) -> list[InputFile]:
    path = Path(source)
    if path.is_file():
        found = [path]
    elif path.is_dir():
        found = [p for p in path.rglob("*.parquet") if not _hidden(p.relative_to(path).parts)]
    else:
        matches = glob.iglob(source, recursive=True)  # noqa: PTH207 (an absolute pattern, too)
        found = [p for p in map(Path, matches) if not _hidden((p.name,))]
    facts = [(str(p.resolve()), p.stat()) for p in sorted(found) if p.is_file()]
    return [InputFile(name, stat.st_size, str(stat.st_mtime_ns)) for name, stat in facts]


def _objects(source: str) -> list[InputFile]:
    head, star, _ = source.partition("*")
    root = head.rpartition("/")[0] if star else source.rstrip("/")
    pattern = re.compile(_expression(source) if star else re.escape(root) + r"(/.*\.parquet)?")
    return [
        one
        for one in list_objects(root)
        if pattern.fullmatch(one.path)
        and not _hidden(PurePosixPath(one.path.removeprefix(root)).parts[1:])
    ]


def _expression(pattern: str) -> str:
    """A regular expression for a pattern of ``**/`` (any directories) and ``*`` (within a name).

    Example:
        >>> bool(re.fullmatch(_expression("s3://b/**/x*"), "s3://b/1/2/x.parquet"))
        True
    """
    words = {"**/": "(.*/)?", "*": "[^/]*"}
    parts = re.split(r"(\*\*/|\*)", pattern)
    return "".join(words.get(part, re.escape(part)) for part in parts)


def _hidden(names: tuple[str, ...]) -> bool:
    return any(name.startswith(HIDDEN) for name in names)


def scan_input(files: list[InputFile], cascade: Cascade) -> list[pl.LazyFrame]:
    """The files as lazy tables of the same columns and types.

    Raises:
        DataError: If one is damaged or no Parquet file, lacks a column, has one that the output or
            a shard adds, or differs from the first.
    """
    needed = ("user", "item") if cascade.models.crm is not None else ("user", "item", "score")
    tables = [_scan(file.path) for file in files]
    schemas = []
    for file, table in zip(files, tables, strict=True):
        with readable(file.path):
            schemas.append(table.collect_schema())
        check_schema(schemas[-1], file.path, needed)
    first = schemas[0]
    for name in first:
        if name in OUTPUT_COLUMNS or name.startswith(OURS):
            raise DataError(f"{files[0].path}: rename the column {name!r}, which the output adds")
    for file, schema in zip(files[1:], schemas[1:], strict=True):
        if schema != first:
            odd = sorted(set(schema.items()) ^ set(first.items()), key=lambda pair: pair[0])
            name = odd[0][0] if odd else "their order"
            raise DataError(
                f"{file.path} has other columns than {files[0].path} ({name}: {schema.get(name)} "
                f"and {first.get(name)}): write them alike, or score them as two jobs"
            )
    return tables


def _scan(path: str) -> pl.LazyFrame:
    if not path.lower().endswith(".parquet"):
        raise DataError(f"{path}: `score` reads Parquet; `predict` reads CSV, too")
    with readable(path):
        return pl.scan_parquet(path, glob=False)


def count_rows(tables: list[pl.LazyFrame]) -> int:
    """Rows of all files, by their metadata."""
    return sum(table.select(pl.len()).collect().item() for table in tables)


def check_output(files: Sequence[InputFile], output: str | Path) -> None:
    """Refuse an output directory that holds the input, or is a file.

    Raises:
        DataError: If it is one.
    """
    if is_url(str(output)):
        root = str(output).rstrip("/")
    else:
        path = Path(output)
        if path.exists() and not path.is_dir():
            raise DataError(f"{output} is a file: name a directory for the output")
        root = str(path.resolve())
    inside = [file.path for file in files if file.path.startswith(f"{root}/")]
    if inside:
        raise DataError(f"{output} holds the input ({inside[0]}): name another output")
