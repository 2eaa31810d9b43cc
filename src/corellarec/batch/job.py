"""A job's directory: what is scored by what, and what is done.

_job.json                  what is scored, by which cascade
_work/input.json           the frozen input: where it is, rows and checksum of each shard
_work/input-*/SHARD        the frozen input
_work/crm/SHARD.logits     pass A: the CRM's logits
_work/crm/SHARD.candidates the rows above the threshold
_work/crm/SHARD.json       checksums of both
_work/cut.json             pass B: which of them are routed
part-SHARD.parquet         passes C and D: a shard's output
_done/SHARD.json           its rows and checksum
_expected.json             the estimate, if a price was given
_took.json                 time that the calls took
_SUCCESS                   totals; _work is gone then
"""

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path

from corellarec.base.artifacts import MANIFEST, from_json, sha256, to_json
from corellarec.base.errors import DataError
from corellarec.base.numbers import Count, Finite, Positive
from corellarec.batch.folder import Folder, InputFile


@dataclass(frozen=True)
class Job:
    """What is scored, by which cascade.

    Args:
        cascade: SHA-256 of the cascade's manifest, which has the checksums of all its files.
        files: The input.
        shard_rows: Rows of a shard, about.
    """

    cascade: str
    files: tuple[InputFile, ...]
    shard_rows: Positive


@dataclass(frozen=True)
class Done:
    """A shard whose output is written, or the totals of all.

    Args:
        rows: Rows of the output.
        routed: Rows that the language model answered.
        unknown_users: Rows whose user the log does not know.
        unanswered: Rows that a failing server left to the CRM.
        llm_tokens: Tokens that the language model read.
        size: Bytes of the output.
        sha256: Checksum of the output; of the totals, of the shards' checksums in their order.
        shards: Of the totals, how many these are.
    """

    rows: Count
    routed: Count
    unknown_users: Count
    unanswered: Count
    llm_tokens: Count
    size: Count
    sha256: str
    shards: Count = 1


@dataclass(frozen=True)
class FrozenShard:
    """A shard of the frozen input.

    Args:
        rows: Its rows.
        sha256: Checksum of its file.
    """

    rows: Count
    sha256: str


@dataclass(frozen=True)
class Frozen:
    """The frozen input.

    Args:
        name: Of its directory in ``_work``; each attempt at freezing has its own.
        shards: What is in it.
    """

    name: str
    shards: tuple[FrozenShard, ...]

    def file(self, shard: int) -> str:
        """Name of a shard's file."""
        return f"_work/{self.name}/{shard:06}.parquet"


@dataclass(frozen=True)
class CrmDone:
    """A shard that the CRM has scored.

    Args:
        logits: Checksum of the logits.
        candidates: Checksum of the rows above the threshold.
    """

    logits: str
    candidates: str


@dataclass(frozen=True)
class Took:
    """What a job took so far.

    Args:
        calls: Calls of the command that ended, or were stopped by an error or a signal.
        seconds: Of all of them; a killed process leaves nothing here.
    """

    calls: Count
    seconds: Finite


JOB, CUT, INPUT, SUCCESS, TOOK, EXPECTED = (
    "_job.json",
    "_work/cut.json",
    "_work/input.json",
    "_SUCCESS",
    "_took.json",
    "_expected.json",
)
WORK = "_work"


def lock_of(shard: int) -> str:
    """Held while a process writes a shard."""
    return f"_work/locks/{shard:06}"


def crm_file(shard: int, kind: str) -> str:
    """A file of a shard's pass A: ``logits``, ``candidates``, or ``json``, a :class:`CrmDone`."""
    return f"_work/crm/{shard:06}.{kind}"


def output_of(shard: int) -> str:
    """A shard's output."""
    return f"part-{shard:06}.parquet"


def done_of(shard: int) -> str:
    """Rows and checksum of a shard's output: a :class:`Done`."""
    return f"_done/{shard:06}.json"


def job_of(cascade: Path, files: list[InputFile], shard_rows: int) -> Job:
    """The job of scoring files.

    Args:
        cascade: Directory of a run or of a saved cascade.
        files: The input.
        shard_rows: Rows of a shard, about.
    """
    inner = cascade / "cascade"
    manifest = (inner if inner.is_dir() else cascade) / MANIFEST
    return Job(sha256(manifest) if manifest.is_file() else "", tuple(files), shard_rows)


def open_job(folder: Folder, job: Job) -> None:
    """Begin a job in an empty directory, or check that the one there is the same.

    A job whose input was not frozen, because it could not be used, gives way to another.

    Raises:
        DataError: If the directory holds anything else.
    """
    remedy = f"name another output, or delete {folder} to begin anew"
    there = folder.names()
    if there and JOB not in there:
        raise DataError(f"{folder} is not empty ({there[0]}) and holds no job: {remedy}")
    if there and not folder.exists(INPUT) and not folder.exists(SUCCESS):
        folder.remove(JOB)
        there = []
    stored = job
    if there:
        stored = from_json(folder.read(JOB), Job, folder.place(JOB), remedy=remedy)
    else:
        folder.write(JOB, to_json(job))
    said = {
        "cascade": "the cascade is another one",
        "files": "the input has changed or is another one",
        "shard_rows": f"its shards have {stored.shard_rows:,} rows (--shard-rows)",
    }
    for field in fields(Job):
        if getattr(stored, field.name) != getattr(job, field.name):
            raise DataError(f"{folder} holds another job, {said[field.name]}: {remedy}")


def totals(done: list[Done]) -> Done:
    """What all shards have together."""
    checksums = " ".join(one.sha256 for one in done)
    return Done(
        rows=sum(one.rows for one in done),
        routed=sum(one.routed for one in done),
        unknown_users=sum(one.unknown_users for one in done),
        unanswered=sum(one.unanswered for one in done),
        llm_tokens=sum(one.llm_tokens for one in done),
        shards=len(done),
        size=sum(one.size for one in done),
        sha256=hashlib.sha256(checksums.encode()).hexdigest(),
    )
