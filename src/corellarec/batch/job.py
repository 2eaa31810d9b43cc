"""A job's directory: what is scored by what, and what is done.

_job.json             what is scored, by which cascade
_work/input/          the frozen input: one file a shard, manifest with checksums
_work/crm/SHARD/      pass A: the CRM's logits, and the rows above the threshold
_work/cut.json        pass B: which of them are routed
part-SHARD.parquet    passes C and D: a shard's output
_done/SHARD.json      its rows and checksum
_SUCCESS              totals; _work is gone then
"""

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path

from corellarec.base.artifacts import MANIFEST, read_json, sha256, write_json
from corellarec.base.errors import DataError
from corellarec.base.numbers import Count, Positive


@dataclass(frozen=True)
class InputFile:
    """A file of the input, as it was when the job began.

    Args:
        path: Its absolute path.
        size: Bytes.
        modified_ns: When it was last written.
    """

    path: str
    size: Count
    modified_ns: int


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
        sha256: Checksum of the output; of the totals, of the shards' checksums in their order.
    """

    rows: Count
    routed: Count
    unknown_users: Count
    unanswered: Count
    sha256: str


@dataclass(frozen=True)
class JobDirectory:
    """Where the files of a job are.

    Args:
        root: The output directory.
    """

    root: Path

    @property
    def job(self) -> Path:
        """What is scored, by which cascade: a :class:`Job`."""
        return self.root / "_job.json"

    @property
    def work(self) -> Path:
        """What is needed until the job has ended."""
        return self.root / "_work"

    @property
    def input(self) -> Path:
        """The frozen input."""
        return self.work / "input"

    @property
    def cut(self) -> Path:
        """Which rows are routed: a :class:`~corellarec.batch.cut.Cut`."""
        return self.work / "cut.json"

    @property
    def success(self) -> Path:
        """Totals, once all is done: a :class:`Done`."""
        return self.root / "_SUCCESS"

    def lock(self, shard: int) -> Path:
        """Held while a process writes a shard."""
        return self.work / "locks" / f"{shard:06}"

    def shard(self, shard: int) -> Path:
        """A shard of the frozen input."""
        return self.input / f"{shard:06}.parquet"

    def crm(self, shard: int) -> Path:
        """The directory of a shard's pass A."""
        return self.work / "crm" / f"{shard:06}"

    def output(self, shard: int) -> Path:
        """A shard's output."""
        return self.root / f"part-{shard:06}.parquet"

    def done(self, shard: int) -> Path:
        """Rows and checksum of a shard's output: a :class:`Done`."""
        return self.root / "_done" / f"{shard:06}.json"


def job_of(cascade: Path, files: list[Path], shard_rows: int) -> Job:
    """The job of scoring files.

    Args:
        cascade: Directory of a run or of a saved cascade.
        files: The input.
        shard_rows: Rows of a shard, about.
    """
    inner = cascade / "cascade"
    manifest = (inner if inner.is_dir() else cascade) / MANIFEST
    facts = [(str(path.resolve()), path.stat()) for path in files]
    found = tuple(InputFile(path, stat.st_size, stat.st_mtime_ns) for path, stat in facts)
    return Job(sha256(manifest) if manifest.is_file() else "", found, shard_rows)


def open_job(directory: JobDirectory, job: Job) -> None:
    """Begin a job in an empty directory, or check that the one there is the same.

    A job whose input was not frozen, because it could not be used, gives way to another.

    Raises:
        DataError: If the directory holds anything else.
    """
    root = directory.root
    remedy = f"name another output, or delete {root} to begin anew"
    there = [path.name for path in sorted(root.iterdir()) if path.name[0] != "."]
    if there and directory.job.name not in there:
        raise DataError(f"{root} is not empty ({there[0]}) and holds no job: {remedy}")
    if not directory.input.exists() and not directory.success.exists():
        write_json(directory.job, job)
        return
    stored = read_json(directory.job, Job, remedy=remedy)
    said = {
        "cascade": "the cascade is another one",
        "files": "the input has changed or is another one",
        "shard_rows": f"its shards have {stored.shard_rows:,} rows (--shard-rows)",
    }
    for field in fields(Job):
        if getattr(stored, field.name) != getattr(job, field.name):
            raise DataError(f"{root} holds another job, {said[field.name]}: {remedy}")


def totals(done: list[Done]) -> Done:
    """What all shards have together."""
    checksums = " ".join(one.sha256 for one in done)
    return Done(
        rows=sum(one.rows for one in done),
        routed=sum(one.routed for one in done),
        unknown_users=sum(one.unknown_users for one in done),
        unanswered=sum(one.unanswered for one in done),
        sha256=hashlib.sha256(checksums.encode()).hexdigest(),
    )
