"""What is done with one shard: pass A (the CRM), and passes C and D (the LLM, and the output)."""

from typing import Literal

import numpy as np
import polars as pl
import torch

from corellarec.base.artifacts import read_json, read_manifest, sha256, write_json, writing
from corellarec.base.errors import ArtifactError
from corellarec.base.lock import locked
from corellarec.base.metrics import Floats
from corellarec.batch.cut import Cut, Numbers, ordered
from corellarec.batch.freeze import HASH, ITEM, LOGIT, OURS, TIME, USER
from corellarec.batch.job import Done, JobDirectory
from corellarec.cascade.cascade import Cascade
from corellarec.cascade.prediction import CrmScored, answer
from corellarec.cascade.tables import Pairs
from corellarec.data.files import write_table

Step = Literal["crm", "llm"]
CRM_FILE, CANDIDATES = "logits.parquet", "candidates.parquet"


class ShardScorer:
    """Does the steps of a job's shards in one process; may be one of many.

    A step's result depends on its shard alone, and appears whole or not at all: a step may be done
    twice, or again by another process.

    Args:
        cascade: Its models are loaded once.
        directory: Of the job.
    """

    def __init__(self, cascade: Cascade, directory: JobDirectory) -> None:
        self.cascade, self.directory = cascade, directory
        self._checksums = read_manifest(directory.input, verify=False)["files"]

    def do(self, step: Step, shard: int) -> int:
        """Do a step of a shard; returns the shard's rows.

        Raises:
            ArtifactError: If a file of the job has changed since it was written.
            ModelError: If the language model cannot be loaded, or its server fails.
        """
        with locked(self.directory.lock(shard), f"shard {shard}", wait_s=None):
            table = self._read(shard)
            (self._crm if step == "crm" else self._llm)(shard, table)
        return table.height

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
        with writing(self.directory.crm(shard), {"kind": "score crm"}) as unfinished:
            pl.DataFrame({"logit": facts.crm_logit}).write_parquet(unfinished / CRM_FILE)
            pl.DataFrame(candidates).write_parquet(unfinished / CANDIDATES)

    def _llm(self, shard: int, table: pl.DataFrame) -> None:
        path, models = self.directory.crm(shard), self.cascade.models
        read_manifest(path)
        cut = read_json(self.directory.cut, Cut)
        found = pl.read_parquet(path / CANDIDATES, glob=False)
        chosen = cut.routes(found["value"].to_numpy(), found["key"].to_numpy())
        routed = np.zeros(table.height, bool)
        routed[found["row"].to_numpy()[chosen]] = True
        scored = self._scored(
            table, pl.read_parquet(path / CRM_FILE, glob=False)["logit"].to_numpy()
        )
        before = models.unanswered
        prediction = answer(self.cascade.router, models, scored, routed)
        theirs = table.select(name for name in table.columns if not name.startswith(OURS))
        output = self.directory.output(shard)
        write_table(pl.concat([theirs, prediction.to_frame()], how="horizontal"), output)
        done = Done(
            rows=table.height,
            routed=int(prediction.routed.sum()),
            unknown_users=int((table[USER] < 0).sum()),
            unanswered=models.unanswered - before,
            sha256=sha256(output),
        )
        write_json(self.directory.done(shard), done)

    def _scored(self, table: pl.DataFrame, crm_logit: Floats | None) -> CrmScored:
        time = _tensor(table[TIME]) if TIME in table.columns else None
        pairs = Pairs(_tensor(table[USER]), _tensor(table[ITEM]), time)
        return self.cascade.score_crm(pairs, crm_logit)

    def _read(self, shard: int) -> pl.DataFrame:
        path = self.directory.shard(shard)
        if not path.is_file() or sha256(path) != self._checksums.get(path.name):
            raise ArtifactError(
                f"{path} is not as it was written: delete {self.directory.root} and score again"
            )
        return pl.read_parquet(path, glob=False)


def is_done(directory: JobDirectory, shard: int) -> bool:
    """Whether a shard's output is there, as it was written."""
    done, output = directory.done(shard), directory.output(shard)
    if not done.is_file() or not output.is_file():
        return False
    return read_json(done, Done).sha256 == sha256(output)


def has_crm(directory: JobDirectory, shard: int) -> bool:
    """Whether a shard's pass A is there, as it was written."""
    try:
        read_manifest(directory.crm(shard))
    except ArtifactError:
        return False
    return True


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
