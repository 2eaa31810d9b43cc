"""What is done with one shard: pass A (the CRM), and passes C and D (the LLM, and the output)."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
import torch

from corellarec.base.artifacts import from_json, to_json
from corellarec.base.errors import ArtifactError, WorkerError
from corellarec.base.machine import release_memory
from corellarec.base.metrics import Floats
from corellarec.batch.cut import Cut, Numbers, ordered
from corellarec.batch.folder import Folder
from corellarec.batch.freeze import HASH, ITEM, LOGIT, TIME, USER, as_parquet, frozen_input
from corellarec.batch.job import CUT, CrmDone, Done, crm_file, done_of, lock_of, output_of
from corellarec.batch.source import OURS
from corellarec.cascade.cascade import Cascade
from corellarec.cascade.prediction import CrmScored, answer
from corellarec.cascade.tables import Pairs

Step = Literal["crm", "llm"]
REMEDY = "score again"


@dataclass(frozen=True)
class Worked:
    """What a step of a shard has done.

    Args:
        rows: Of the shard.
        tokens: That the language model read.
    """

    rows: int
    tokens: int = 0


class ShardScorer:
    """Does the steps of a job's shards in one process; may be one of many.

    A step's result depends on its shard alone, and appears whole or not at all: a step may be done
    twice, or again by another process.

    Args:
        cascade: Its models are loaded once.
        folder: Of the job.
    """

    def __init__(self, cascade: Cascade, folder: Folder) -> None:
        self.cascade, self.folder = cascade, folder
        self._frozen = frozen_input(folder)

    def do(self, step: Step, shard: int) -> Worked:
        """Do a step of a shard.

        Raises:
            ArtifactError: If a file of the job has changed since it was written.
            ModelError: If the language model cannot be loaded, or its server fails.
        """
        with self.folder.locked(lock_of(shard), f"shard {shard}", None), _enough_memory():
            table = self._read(shard)
            tokens = 0
            if step == "crm":
                self._crm(shard, table)
            else:
                tokens = self._llm(shard, table)
        release_memory()  # batches of many lengths leave gaps that add up from shard to shard
        return Worked(table.height, tokens)

    def _crm(self, shard: int, table: pl.DataFrame) -> None:
        given = table[LOGIT].to_numpy() if LOGIT in table.columns else None
        scored = self._scored(table, given)
        router, facts = self.cascade.router, scored.known
        above = router.above(facts)
        candidates = {
            "row": np.flatnonzero(above),
            "value": ordered(router.value(facts)[above]),
            "key": _keys(table)[above],
        }
        checksums = {}
        for kind, found in (("logits", {"logit": facts.crm_logit}), ("candidates", candidates)):
            data = as_parquet(pl.DataFrame(found))
            checksums[kind] = _sha256(self.folder.write(crm_file(shard, kind), data))
        self.folder.write(crm_file(shard, "json"), to_json(CrmDone(**checksums)))

    def _llm(self, shard: int, table: pl.DataFrame) -> int:
        models, folder = self.cascade.models, self.folder
        cut = from_json(folder.read(CUT), Cut, folder.place(CUT), remedy=REMEDY)
        logits, found = crm_of(folder, shard)
        chosen = cut.routes(found["value"].to_numpy(), found["key"].to_numpy())
        routed = np.zeros(table.height, bool)
        routed[found["row"].to_numpy()[chosen]] = True
        scored = self._scored(table, logits["logit"].to_numpy())
        tokens, before = 0, models.unanswered
        if routed.any():
            samples = scored.samples[torch.from_numpy(np.flatnonzero(routed))]
            tokens = models.llm_tokens(scored.log, samples)
        prediction = answer(self.cascade.router, models, scored, routed)
        theirs = table.select(name for name in table.columns if not name.startswith(OURS))
        output = pl.concat([theirs, prediction.to_frame()], how="horizontal")
        data = folder.write(output_of(shard), as_parquet(output))
        done = Done(
            rows=table.height,
            routed=int(prediction.routed.sum()),
            unknown_users=int((table[USER] < 0).sum()),
            unanswered=models.unanswered - before,
            llm_tokens=tokens,
            size=len(data),
            sha256=_sha256(data),
        )
        folder.write(done_of(shard), to_json(done))
        return tokens

    def _scored(self, table: pl.DataFrame, crm_logit: Floats | None) -> CrmScored:
        time = _tensor(table[TIME]) if TIME in table.columns else None
        pairs = Pairs(_tensor(table[USER]), _tensor(table[ITEM]), time)
        return self.cascade.score_crm(pairs, crm_logit)

    def _read(self, shard: int) -> pl.DataFrame:
        name = self._frozen.file(shard)
        data = self.folder.read(name)
        if _sha256(data) != self._frozen.shards[shard].sha256:
            raise ArtifactError(
                f"{self.folder.place(name)} is not as it was written: delete {self.folder} and "
                "score again"
            )
        return pl.read_parquet(io.BytesIO(data))


@contextmanager
def _enough_memory() -> Iterator[None]:
    """Say what to do where memory runs out.

    Raises:
        WorkerError: If it does.
    """
    try:
        yield
    except (MemoryError, RuntimeError, pl.exceptions.PanicException) as error:
        # torch and polars, and threads that cannot start, say it in words
        words = ("memory", "alloc", "thread")
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in words):
            raise
        raise WorkerError(
            "no memory is left for a shard: run the same command again to go on; fewer --workers "
            "need less"
        ) from error


def is_done(folder: Folder, shard: int) -> bool:
    """Whether a shard's output is there, as it was written; what is damaged is removed."""
    name = done_of(shard)
    if not folder.exists(name):
        return False
    done = from_json(folder.read(name), Done, folder.place(name), remedy="delete it")
    if folder.holds(output_of(shard), done.size, done.sha256):
        return True
    folder.remove(name)
    folder.remove(output_of(shard))
    return False


def has_crm(folder: Folder, shard: int) -> bool:
    """Whether a shard's pass A is there, as it was written; what is damaged is removed."""
    if not folder.exists(crm_file(shard, "json")):
        return False
    try:
        crm_of(folder, shard)
    except ArtifactError:
        for kind in ("json", "logits", "candidates"):
            folder.remove(crm_file(shard, kind))
        return False
    return True


def crm_of(folder: Folder, shard: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A shard's logits, and its rows above the threshold.

    Raises:
        ArtifactError: If they are not there as they were written.
    """
    name = crm_file(shard, "json")
    done = from_json(folder.read(name), CrmDone, folder.place(name), remedy=REMEDY)
    tables = []
    for kind, checksum in (("logits", done.logits), ("candidates", done.candidates)):
        name = crm_file(shard, kind)
        data = folder.read(name)
        if _sha256(data) != checksum:
            raise ArtifactError(f"{folder.place(name)} is not as it was written: {REMEDY}")
        tables.append(pl.read_parquet(io.BytesIO(data)))
    return tables[0], tables[1]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _keys(table: pl.DataFrame) -> Numbers:
    """``(n,)`` a number for each row of a shard, by which equal values are ordered.

    It depends on user, item and time; rows that have the same ones are numbered.
    """
    key = table[ITEM].to_numpy().astype(np.uint64)
    if TIME in table.columns:
        key ^= _mixed(table[TIME].to_numpy().view(np.uint64))
    key = _mixed(_mixed(key) ^ table[HASH].to_numpy())
    first = np.ones(len(key), bool)
    first[1:] = key[1:] != key[:-1]  # equal ones are neighbours
    place = np.arange(len(key))
    again = place - np.maximum.accumulate(np.where(first, place, 0))
    return _mixed(key + again.astype(np.uint64))


def _mixed(x: Numbers) -> Numbers:
    """A one-to-one map that spreads every bit over all.

    Source: Steele et al. 2014 (SplitMix64), https://doi.org/10.1145/2660193.2660195
    """
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _tensor(column: pl.Series) -> torch.Tensor:
    return torch.from_numpy(column.to_numpy().copy())
