"""The input of a job as shards: whole users, each sorted by time, read once and never again."""

import hashlib
import io
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corellarec.base.artifacts import from_json, to_json
from corellarec.base.errors import DataError
from corellarec.base.frames import ids_of, readable
from corellarec.batch.folder import Folder, InputFile
from corellarec.batch.job import INPUT, WORK, Frozen, FrozenShard
from corellarec.batch.source import OURS, count_rows, scan_input
from corellarec.cascade.cascade import Cascade
from corellarec.cascade.tables import read_pairs
from corellarec.crm.external import score_logits

READ_ROWS = 100_000  # rows read at once, as `predict` reads them
PART_ROWS = 500_000  # rows held in memory until they are written by shard
FAN = 128  # files that they are written to side by side
HASH, USER, ITEM, TIME, LOGIT = (
    f"{OURS}{name}" for name in ("hash", "user", "item", "time", "crm_logit")
)


def shards_of(rows: int, shard_rows: int) -> int:
    """Shards of so many rows."""
    return max(1, -(-rows // shard_rows))


def freeze(
    cascade: Cascade,
    files: list[InputFile],
    folder: Folder,
    shard_rows: int,
    progress: Callable[[int, int, str], None] = lambda done, total, message: None,
) -> Frozen:
    """Write the shards; every row is checked, so that later passes meet no bad one.

    Args:
        cascade: Its log numbers users and items.
        files: The input.
        folder: Of the job.
        shard_rows: Rows of a shard, about: a user is in one shard with all rows.
        progress: Called with rows read, rows in all, and words.

    Raises:
        DataError: If a file or a row cannot be used.
    """
    tables = scan_input(files, cascade)
    rows = count_rows(tables)
    if not rows:
        raise DataError(f"no rows in the input ({files[0].path}): give files that have some")
    count = shards_of(rows, shard_rows)
    name = f"input-{uuid.uuid4().hex[:8]}"
    frozen = Frozen(name, ())
    shards = []

    def read() -> Iterator[pl.DataFrame]:
        done = 0
        for part in _parts(cascade, tables, files):
            yield part
            done += part.height
            progress(done, rows, "reading")

    if folder.exclusive:
        folder.remove(WORK)  # what an interrupted attempt left
    with folder.scratch() as scratch:
        for shard, table in enumerate(_by_shard(read(), range(count), count, scratch)):
            keys = [name for name in (HASH, TIME, ITEM) if name in table.columns]
            data = as_parquet(table.sort(keys, maintain_order=True))
            folder.write(frozen.file(shard), data)
            shards.append(FrozenShard(table.height, hashlib.sha256(data).hexdigest()))
    written = folder.write(INPUT, to_json(Frozen(name, tuple(shards))))
    return from_json(written, Frozen, folder.place(INPUT), remedy="score again")


def frozen_input(folder: Folder) -> Frozen:
    """The frozen input of a job.

    Raises:
        ArtifactError: If its manifest is not there, or damaged.
    """
    remedy = f"delete {folder} and score again"
    return from_json(folder.read(INPUT), Frozen, folder.place(INPUT), remedy=remedy)


def as_parquet(table: pl.DataFrame) -> bytes:
    """A table as the bytes of a Parquet file."""
    stream = io.BytesIO()
    table.write_parquet(stream)
    return stream.getvalue()


def _by_shard(
    tables: Iterator[pl.DataFrame], shards: range, count: int, folder: Path
) -> Iterator[pl.DataFrame]:
    """The rows of each of some shards, in memory that does not depend on how many there are.

    The rows are written to at most ``FAN`` files, each of some shards, and each file is divided
    again in the same way: every row is written ``log(count) / log(FAN)`` times.

    Args:
        tables: The rows of these shards, at least one table.
        shards: Their numbers.
        count: Shards of the job.
        folder: Where the files are written; they are removed as they are read.
    """
    if len(shards) == 1:
        yield pl.concat(tables)
        return
    step = -(-len(shards) // FAN)
    groups = [shards[start : start + step] for start in range(0, len(shards), step)]
    with ExitStack() as stack:
        files = [stack.enter_context((folder / str(group[0])).open("wb")) for group in groups]
        for number, table in enumerate(tables):
            group = ((table[HASH] % count).to_numpy().astype(np.int64) - shards[0]) // step
            ordered = table[np.argsort(group, kind="stable")]
            ends = np.searchsorted(np.sort(group), np.arange(len(groups) + 1))
            for file, start, end in zip(files, ends[:-1], ends[1:], strict=True):
                if start < end or not number:  # the first one, for its columns
                    _append(ordered[int(start) : int(end)], file)
    for group in groups:
        path = folder / str(group[0])
        inner = folder / f"{group[0]}.parts"
        inner.mkdir()
        yield from _by_shard(_appended(path), group, count, inner)
        path.unlink()
        inner.rmdir()


def _append(table: pl.DataFrame, file: BinaryIO) -> None:
    """Write a table behind others: its size in bytes, then an Arrow stream."""
    stream = io.BytesIO()
    table.write_ipc_stream(stream)
    file.write(len(stream.getbuffer()).to_bytes(8, "little"))
    file.write(stream.getbuffer())


def _appended(path: Path) -> Iterator[pl.DataFrame]:
    """The tables of a file that :func:`_append` wrote."""
    with path.open("rb") as file:
        while size := file.read(8):
            yield pl.read_ipc_stream(io.BytesIO(file.read(int.from_bytes(size, "little"))))


def _parts(
    cascade: Cascade, tables: list[pl.LazyFrame], files: list[InputFile]
) -> Iterator[pl.DataFrame]:
    """The rows with our columns, in tables of at least ``PART_ROWS`` but for the last."""
    held: list[pl.DataFrame] = []
    for table, file in zip(tables, files, strict=True):
        first = 1
        with readable(file.path):
            for batch in table.collect_batches(chunk_size=READ_ROWS, maintain_order=True):
                held.append(batch.hstack(_numbers(cascade, batch, file.path, first)))
                first += batch.height
                if sum(part.height for part in held) >= PART_ROWS:
                    yield pl.concat(held)
                    held = []
    if held:
        yield pl.concat(held)


def _numbers(cascade: Cascade, batch: pl.DataFrame, name: str, first: int) -> list[pl.Series]:
    """The rows in the log's numbers, and the hash of the user's id."""
    pairs = read_pairs(cascade.log, batch, name, first, cascade.recipe.times)
    columns = [
        pl.Series(HASH, _hashes(ids_of(batch, "user", name))),
        pl.Series(USER, pairs.user.numpy()),
        pl.Series(ITEM, pairs.item.numpy()),
    ]
    if pairs.time is not None:
        columns.append(pl.Series(TIME, pairs.time.numpy()))
    if cascade.models.crm is None:
        config = cascade.recipe.crm.external
        columns.append(score_logits(batch, config, Path(name), first).alias(LOGIT))
    return columns


def _hashes(ids: pl.Series) -> NDArray[np.uint64]:
    """``(n,)`` a hash of each id, the same on every machine and in every version."""
    distinct = ids.unique()
    digests = [hashlib.blake2b(one.encode(), digest_size=8).digest() for one in distinct]
    hashes = pl.Series(np.frombuffer(b"".join(digests), "<u8"))
    return ids.replace_strict(distinct, hashes, return_dtype=pl.UInt64).to_numpy()
