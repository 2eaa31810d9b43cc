"""Tables and tensors that this program wrote, checked when they are read.

A file of Parquet or safetensors may be damaged, or may have been made to be harmful: nothing is
allocated that its size does not explain.
"""

from collections.abc import Mapping
from pathlib import Path

import polars as pl
import torch
from polars.exceptions import PanicException, PolarsError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from corellarec.base.artifacts import writes_again
from corellarec.base.errors import ArtifactError

Columns = Mapping[str, pl.DataType]

SMALL = 256 << 20  # bytes of a table in memory that need no explanation
UNPACKED = 200  # a larger one holds at most so many for each byte of its file
MOST_HEADER = 16 << 20  # bytes that describe the tensors of a file
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def unusable(path: Path, what: str) -> ArtifactError:
    """The error of a stored file that cannot be used, with its remedy."""
    return ArtifactError(f"{path}: {what}: delete {path.parent}; {writes_again(path.parent)}")


def read_stored(path: Path, columns: Columns) -> pl.DataFrame:
    """A table that this program wrote as Parquet.

    Args:
        path: The file.
        columns: Columns that it must have, of these types and without null; it may have more.

    Raises:
        ArtifactError: If it is missing, damaged or another table, or fills the memory.
    """
    try:
        found = pl.scan_parquet(path, glob=False)
        schema = found.collect_schema()
        _check_size(path, schema, found.select(pl.len()).collect().item())
        table = found.collect()
    except (PolarsError, PanicException, OSError) as error:  # a panic is no Exception
        raise unusable(path, f"cannot be read ({_first_line(error)})") from error
    for name, kind in columns.items():
        if schema.get(name) != kind:
            raise unusable(path, f"the column {name!r} holds {schema.get(name)}, not {kind}")
        if table[name].null_count():
            raise unusable(path, f"the column {name!r} has missing values")
    _check_texts(path, table)
    return table


def _check_size(path: Path, schema: pl.Schema, rows: int) -> None:
    """Refuse a table that would fill the memory before it is unpacked."""
    widths = (
        kind.size if isinstance(kind, pl.Array) else 1 for kind in schema.values()
    )  # fmt: skip
    _check_bytes(path, 8 * rows * sum(widths))


def _check_texts(path: Path, table: pl.DataFrame) -> None:
    """Refuse one whose texts are short on disk, where each is kept once, and long in memory."""
    texts = table.select(pl.col(pl.String).str.len_bytes().cast(pl.Int64).sum())
    _check_bytes(path, sum(texts.row(0)) if texts.width else 0)


def _check_bytes(path: Path, size: int) -> None:
    if size > max(SMALL, UNPACKED * path.stat().st_size):
        raise unusable(
            path, f"{path.stat().st_size:,} bytes unpack to {size >> 20:,} MiB, as no log does"
        )


def read_tensors(path: Path, expected: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Args:
        path: The file.
        expected: Names and shapes that it must have, compared before a tensor is read; tensors on
            the meta device will do. Its numbers must then be finite.

    Raises:
        ArtifactError: If it is missing or damaged, or not as expected.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > MOST_HEADER:
            raise unusable(path, f"its header of {length:,} bytes is not one of ours")
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if expected is not None:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
                _compare(path, shapes, expected)
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise unusable(path, f"cannot be read ({_first_line(error)})") from error
    for name, like in (expected or {}).items():
        if like.is_floating_point():
            if tensors[name].dtype not in FLOATS or not tensors[name].isfinite().all():
                raise unusable(path, f"{name} holds values that are no finite numbers")
        elif tensors[name].dtype != like.dtype:
            raise unusable(path, f"{name} holds {tensors[name].dtype}, not {like.dtype}")
    return tensors


def _compare(
    path: Path, shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, Tensor]
) -> None:
    if shapes.keys() != expected.keys():
        name = min(shapes.keys() ^ expected.keys())
        raise unusable(
            path,
            f"does not fit its settings: {'no' if name in expected else 'a further'} tensor {name}",
        )
    for name, like in expected.items():
        if shapes[name] != tuple(like.shape):
            raise unusable(
                path,
                f"does not fit its settings: {name} has the shape {shapes[name]}, not "
                f"{tuple(like.shape)}",
            )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
