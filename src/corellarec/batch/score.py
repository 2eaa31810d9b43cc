"""A job from its input to its last shard, and on from wherever an earlier process stopped."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import polars as pl

from corellarec.base.artifacts import from_json, to_json
from corellarec.base.console import Display
from corellarec.base.errors import ArtifactError, CorellarecError
from corellarec.base.machine import release_memory
from corellarec.base.ray import on_ray
from corellarec.batch import SHARD_ROWS
from corellarec.batch.cut import find_cut, most_routed
from corellarec.batch.estimate import Estimate, estimate
from corellarec.batch.folder import Folder, folder_of
from corellarec.batch.freeze import freeze, frozen_input
from corellarec.batch.job import (
    CUT,
    EXPECTED,
    INPUT,
    SUCCESS,
    TOOK,
    WORK,
    Done,
    Frozen,
    Took,
    crm_file,
    done_of,
    job_of,
    open_job,
    output_of,
    totals,
)
from corellarec.batch.local import Load, Mapped, on_processes
from corellarec.batch.progress import Meter, duration
from corellarec.batch.shard import ShardScorer, Step, Worked, has_crm, is_done
from corellarec.batch.source import check_output, input_files
from corellarec.cascade.cascade import Cascade

Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class JobScored:
    """What a job has scored, now or before.

    Args:
        output: Its directory or URL.
        shards: Output files.
        rows: Rows of all.
        routed: Rows that the language model answered.
        unknown_users: Rows whose user the log does not know.
        unanswered: Rows that a failing server left to the CRM.
        scored_now: Shards that this call scored; the others were there.
        llm_tokens: Tokens that the language model read.
        seconds: Time of this call and of earlier ones that were not killed.
        calls: How many these are.
        price: What they cost; None where no price was given.
        expected: What was estimated when the job began; None where no price was given.
    """

    output: str
    shards: int
    rows: int
    routed: int
    unknown_users: int
    unanswered: int
    scored_now: int
    llm_tokens: int
    seconds: float
    calls: int
    price: float | None
    expected: Estimate | None

    def took(self) -> str:
        """Time, tokens and price in words."""
        words = f"{duration(self.seconds)}, {self.llm_tokens:,} tokens"
        if self.calls > 1:
            words += f", {self.calls} calls"
        words += "" if self.price is None else f", price {self.price:,.2f}"
        return words + ("" if self.expected is None else f"; expected: {self.expected.whole()}")


def score(
    load: Load,
    run: Path,
    source: str,
    output: str | Path,
    *,
    engine: Engine = "local",
    workers: int = 1,
    shard_rows: int = SHARD_ROWS,
    price_per_hour: float | None = None,
    ask: bool = True,
    display: Display,
) -> JobScored:
    """Score Parquet files into a directory of them; again, it goes on where it stopped.

    Args:
        load: Loads the cascade.
        run: The cascade's directory.
        source: As for :func:`~corellarec.batch.source.input_files`.
        output: Directory or URL of the output: new, empty, or of the same job.
        engine: What the workers are: processes of this machine, or actors of a Ray cluster.
        workers: How many; with ``local``, one is this process itself.
        shard_rows: Rows of a shard, about, which bound the memory of a process.
        price_per_hour: Of all machines of the job: then the job begins with an estimate, and what
            it has cost is said.
        ask: Whether the estimate asks the language model.
        display: Shows progress.

    Raises:
        DataError: If the input cannot be used, or the output holds something else.
        ArtifactError: If a file of the job has changed since it was written.
        UnreachableError: If an object store refuses or cannot be reached.
        WorkerError: If a process ends before its work.
        LockedError: If another process works on the same job.
    """
    begin = time.monotonic()
    files = input_files(source)
    check_output(files, output)
    folder = folder_of(output)
    cascade = load()
    with folder.locked(".lock", str(output), 0.0):
        open_job(folder, job_of(run, files, shard_rows))
        remedy = f"delete {output} and score again"
        before = Took(0, 0.0)
        if folder.exists(TOOK):
            before = from_json(folder.read(TOOK), Took, folder.place(TOOK), remedy=remedy)
        if folder.exists(SUCCESS):
            done = from_json(folder.read(SUCCESS), Done, folder.place(SUCCESS), remedy=remedy)
            return _scored(folder, done, 0, before, price_per_hour)
        try:
            if folder.exists(INPUT):
                frozen = frozen_input(folder)
            else:
                if price_per_hour is not None:
                    expected = estimate(cascade, files, shard_rows, workers, price_per_hour, ask)
                    display.say("\n".join(expected.lines()))
                    folder.remove(EXPECTED)
                    folder.write(EXPECTED, to_json(expected))
                with display.bar("input") as report:
                    frozen = freeze(cascade, files, folder, shard_rows, report)
            left = [n for n in range(len(frozen.shards)) if not is_done(folder, n)]
            if left:
                limit = cascade.router.limit
                workers = min(workers, len(left))
                with _workers(engine, cascade, load, folder, workers) as mapped:
                    del cascade
                    release_memory()
                    job = _Job(mapped, folder, frozen, display, price_per_hour)
                    job.score(left, limit)
            done = _finish(folder, frozen)
        finally:
            took = Took(before.calls + 1, before.seconds + time.monotonic() - begin)
            with suppress(CorellarecError, OSError):  # what stopped the job is said, not this
                folder.remove(TOOK)
                folder.write(TOOK, to_json(took))
        return _scored(folder, done, len(left), took, price_per_hour)


@contextmanager
def _workers(
    engine: Engine, cascade: Cascade, load: Load, folder: Folder, workers: int
) -> Iterator[Mapped]:
    if engine == "local" and workers == 1:
        scorer = ShardScorer(cascade, folder)
        yield lambda tasks: (scorer.do(*task) for task in tasks)
        return
    del cascade  # each worker has its own
    if engine == "ray":
        with on_ray(partial(_ActorScorer, load, folder), workers) as mapped:
            yield mapped
    else:
        with on_processes(load, folder, workers) as mapped:
            yield mapped


class _ActorScorer:
    """Does steps of shards in an actor."""

    def __init__(self, load: Load, folder: Folder) -> None:
        self.scorer = ShardScorer(load(), folder)

    def __call__(self, task: tuple[Step, int]) -> Worked:
        return self.scorer.do(*task)


@dataclass(frozen=True)
class _Job:
    """A job whose input is frozen, and what works on it."""

    mapped: Mapped
    folder: Folder
    frozen: Frozen
    display: Display
    price_per_hour: float | None

    def score(self, left: Sequence[int], limit: float) -> None:
        """Passes A to D of the shards that are left."""
        folder, every = self.folder, range(len(self.frozen.shards))
        wanted = left if folder.exists(CUT) else every
        self.step("crm", [n for n in wanted if not has_crm(folder, n)])
        if not folder.exists(CUT):
            rows = sum(shard.rows for shard in self.frozen.shards)
            with folder.scratch() as scratch:
                files = [folder.local(crm_file(n, "candidates"), scratch) for n in every]
                folder.write(CUT, to_json(find_cut(files, rows, most_routed(limit, rows))))
        self.step("llm", left)

    def step(self, step: Step, shards: Sequence[int]) -> None:
        """One step of some shards."""
        if not shards:
            return
        rows = sum(self.frozen.shards[n].rows for n in shards)
        meter = Meter("CRM" if step == "crm" else "LLM", len(shards), rows, self.price_per_hour)
        with self.display.bar(meter.title) as report:
            for worked in self.mapped([(step, shard) for shard in shards]):
                meter.add(worked.rows, worked.tokens)
                report(meter.shards_done, meter.shards, f"shards, {meter.words()}")
                meter.say(self.display)
        self.display.say(f"{meter.title}: {len(shards):,} shards, {rows:,} rows, {meter.words()}")


def _finish(folder: Folder, frozen: Frozen) -> Done:
    """Write ``_SUCCESS`` if every row of the input is in the output once.

    Raises:
        ArtifactError: If counts differ.
    """
    found = []
    for shard, facts in enumerate(frozen.shards):
        name = done_of(shard)
        done = from_json(folder.read(name), Done, folder.place(name), remedy="delete it")
        output = folder.place(output_of(shard))
        written = pl.scan_parquet(output, glob=False).select(pl.len()).collect().item()
        if not facts.rows == done.rows == written:
            raise ArtifactError(
                f"{output} has {written:,} rows, {folder.place(name)} says {done.rows:,}, the "
                f"input has {facts.rows:,}: delete both files and score again"
            )
        found.append(done)
    done = totals(found)
    folder.write(SUCCESS, to_json(done))
    return done


def _scored(
    folder: Folder, done: Done, now: int, took: Took, price_per_hour: float | None
) -> JobScored:
    folder.remove(WORK)
    expected = None
    if price_per_hour is not None and folder.exists(EXPECTED):
        place = folder.place(EXPECTED)
        expected = from_json(folder.read(EXPECTED), Estimate, place, remedy=f"delete {place}")
    return JobScored(
        output=str(folder),
        shards=done.shards,
        rows=done.rows,
        routed=done.routed,
        unknown_users=done.unknown_users,
        unanswered=done.unanswered,
        scored_now=now,
        llm_tokens=done.llm_tokens,
        seconds=took.seconds,
        calls=took.calls,
        price=None if price_per_hour is None else took.seconds / 3600 * price_per_hour,
        expected=expected,
    )
