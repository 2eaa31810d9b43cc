"""A job from its input to its last shard, and on from wherever an earlier process stopped."""

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from corellarec.base.artifacts import read_json, write_json
from corellarec.base.console import Display
from corellarec.base.errors import ArtifactError, DataError
from corellarec.base.lock import locked
from corellarec.batch import SHARD_ROWS
from corellarec.batch.cut import find_cut
from corellarec.batch.freeze import freeze, input_files, sizes_of
from corellarec.batch.job import Done, JobDirectory, job_of, open_job, totals
from corellarec.batch.local import Load, Mapped, on_processes
from corellarec.batch.ray import on_ray
from corellarec.batch.shard import CANDIDATES, ShardScorer, Step, has_crm, is_done
from corellarec.cascade.budget import ROUNDING
from corellarec.cascade.cascade import Cascade

Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class JobScored:
    """What a job has scored, now or before.

    Args:
        output: Its directory.
        shards: Output files.
        rows: Rows of all.
        routed: Rows that the language model answered.
        unknown_users: Rows whose user the log does not know.
        unanswered: Rows that a failing server left to the CRM.
        scored_now: Shards that this call scored; the others were there.
    """

    output: str
    shards: int
    rows: int
    routed: int
    unknown_users: int
    unanswered: int
    scored_now: int


def score(
    load: Load,
    run: Path,
    source: str,
    output: Path,
    *,
    engine: Engine = "local",
    workers: int = 1,
    shard_rows: int = SHARD_ROWS,
    display: Display,
) -> JobScored:
    """Score Parquet files into a directory of them; again, it goes on where it stopped.

    Args:
        load: Loads the cascade.
        run: The cascade's directory.
        source: As for :func:`~corellarec.batch.freeze.input_files`.
        output: Directory of the output: new, empty, or of the same job.
        engine: What the workers are: processes of this machine, or actors of a Ray cluster.
        workers: How many; with ``local``, one is this process itself.
        shard_rows: Rows of a shard, about, which bound the memory of a process.
        display: Shows progress.

    Raises:
        DataError: If the input cannot be used, or the output holds something else.
        ArtifactError: If a file of the job has changed since it was written.
        WorkerError: If a process ends before its work.
        LockedError: If another process works on the same job.
    """
    files = input_files(source)
    check_output(files, output)
    cascade = load()
    directory = JobDirectory(output.absolute())
    output.mkdir(parents=True, exist_ok=True)
    with locked(output / ".lock", str(output)):
        open_job(directory, job_of(run, files, shard_rows))
        if directory.success.exists():
            remedy = f"delete {output} and score again"
            return _scored(directory, read_json(directory.success, Done, remedy=remedy), 0)
        if not directory.input.exists():
            with display.bar("input") as report:
                freeze(cascade, files, directory, shard_rows, report)
        sizes = sizes_of(directory)
        left = [n for n in range(len(sizes)) if not is_done(directory, n)]
        if left:
            limit = cascade.router.limit
            workers = min(workers, len(left))
            with _workers(engine, cascade, load, directory, workers) as mapped:
                del cascade
                _score(mapped, directory, sizes, left, limit, display)
        done = _finish(directory, sizes)
        return _scored(directory, done, len(left))


def check_output(files: Sequence[Path], output: Path) -> None:
    """Refuse an output directory that holds the input, or is a file.

    Raises:
        DataError: If it is one.
    """
    if output.exists() and not output.is_dir():
        raise DataError(f"{output} is a file: name a directory for the output")
    inside = [file for file in files if file.resolve().is_relative_to(output.resolve())]
    if inside:
        raise DataError(f"{output} holds the input ({inside[0]}): name another output")


@contextmanager
def _workers(
    engine: Engine, cascade: Cascade, load: Load, directory: JobDirectory, workers: int
) -> Iterator[Mapped]:
    if engine == "local" and workers == 1:
        scorer = ShardScorer(cascade, directory)
        yield lambda step, shards: (scorer.do(step, shard) for shard in shards)
        return
    del cascade  # each worker has its own
    workers_of = on_ray if engine == "ray" else on_processes
    with workers_of(load, directory, workers) as mapped:
        yield mapped


def _score(
    mapped: Mapped,
    directory: JobDirectory,
    sizes: Sequence[int],
    left: Sequence[int],
    limit: float,
    display: Display,
) -> None:
    """Passes A to D of the shards that are left."""
    every = range(len(sizes))
    wanted = left if directory.cut.exists() else every
    _step(mapped, "crm", [n for n in wanted if not has_crm(directory, n)], sizes, display)
    if not directory.cut.exists():
        files = [directory.crm(n) / CANDIDATES for n in every]
        write_json(directory.cut, find_cut(files, sum(sizes), most_routed(limit, sum(sizes))))
    _step(mapped, "llm", left, sizes, display)


def _step(
    mapped: Mapped, step: Step, shards: Sequence[int], sizes: Sequence[int], display: Display
) -> None:
    if not shards:
        return
    title, rows, rate = "CRM" if step == "crm" else "LLM", 0, 0.0
    begin = time.perf_counter()
    with display.bar(title) as report:
        for done, more in enumerate(mapped(step, shards), 1):
            rows += more
            rate = rows / (time.perf_counter() - begin)
            report(done, len(shards), f"shards, {rate:,.0f} rows/s")
    display.say(f"{title}: {len(shards):,} shards, {rows:,} rows, {rate:,.0f} rows/s")


def most_routed(limit: float, rows: int) -> int:
    """Rows of a job that may be routed: the budget's share of all of them, rounded down."""
    return math.floor(limit * rows + ROUNDING)


def _finish(directory: JobDirectory, sizes: Sequence[int]) -> Done:
    """Write ``_SUCCESS`` if every row of the input is in the output once.

    Raises:
        ArtifactError: If counts differ.
    """
    found = []
    for shard, rows in enumerate(sizes):
        done = read_json(directory.done(shard), Done)
        output = directory.output(shard)
        written = pl.scan_parquet(output, glob=False).select(pl.len()).collect().item()
        if not rows == done.rows == written:
            raise ArtifactError(
                f"{output} has {written:,} rows, {directory.done(shard)} says {done.rows:,}, the "
                f"input has {rows:,}: delete both files and score again"
            )
        found.append(done)
    done = totals(found)
    write_json(directory.success, done)
    return done


def _scored(directory: JobDirectory, done: Done, now: int) -> JobScored:
    shutil.rmtree(directory.work, ignore_errors=True)
    shards = len(list(directory.done(0).parent.glob("*.json")))
    return JobScored(
        str(directory.root),
        shards,
        done.rows,
        done.routed,
        done.unknown_users,
        done.unanswered,
        now,
    )
