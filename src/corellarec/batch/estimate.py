"""What a job would take, from a small sample of its rows that is scored now."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from corellarec.base.errors import DataError
from corellarec.base.frames import readable
from corellarec.base.metrics import Floats
from corellarec.base.numbers import Count, Finite
from corellarec.batch.cut import most_routed
from corellarec.batch.folder import InputFile
from corellarec.batch.freeze import shards_of
from corellarec.batch.progress import duration
from corellarec.batch.source import count_rows, scan_input
from corellarec.cascade.budget import most_valuable
from corellarec.cascade.cascade import Cascade
from corellarec.cascade.tables import Pairs, read_pairs
from corellarec.crm.external import score_logits

PLACES, ROWS_AT_A_PLACE = 20, 500
LLM_ROWS = 32  # of the sample that the LLM is asked about


@dataclass(frozen=True)
class Estimate:
    """What a job would take.

    Args:
        rows: Rows of the input.
        shards: Output files.
        sample: Rows that were scored for this.
        llm_rows: Rows that the language model would be asked about.
        llm_tokens: Tokens that it would read, at most about: rows of a user share their history,
            and of a sample fewer do.
        crm_seconds: Time for the CRM, at most about: in a shard a user's rows are together, which
            is faster.
        llm_seconds: Time for the language model; None where it was not measured, on a server.
        price_per_hour: Of all machines; None where it is not known.
    """

    rows: Count
    shards: Count
    sample: Count
    llm_rows: Count
    llm_tokens: Count
    crm_seconds: Finite
    llm_seconds: Finite | None
    price_per_hour: Finite | None = None

    @property
    def hours(self) -> float:
        """Of both passes; of the CRM's where the other was not measured."""
        return (self.crm_seconds + (self.llm_seconds or 0.0)) / 3600

    @property
    def price(self) -> float | None:
        """What these hours cost; None where that is not known."""
        return None if self.price_per_hour is None else self.hours * self.price_per_hour

    def whole(self) -> str:
        """Time and price of both passes in words."""
        words = f"at most about {duration(3600 * self.hours)}"
        words += "" if self.price is None else f", price {self.price:,.2f}"
        return words + ("" if self.llm_seconds is not None else ", without the LLM's time")

    def facts(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self) | {"hours": self.hours, "price": self.price}

    def lines(self) -> list[str]:
        """The estimate in words."""
        llm = "not measured: the server is not asked"
        if self.llm_seconds is not None:
            llm = f"about {duration(self.llm_seconds)}"
        return [
            f"{self.rows:,} rows in {self.shards:,} shards",
            f"CRM: all rows, at most about {duration(self.crm_seconds)}",
            f"LLM: about {self.llm_rows:,} rows ({self.llm_rows / self.rows:.2%}), at most about "
            f"{self.llm_tokens:,} tokens; {llm}",
            f"Both: {self.whole()}",
            f"From {self.sample:,} rows that were scored now.",
        ]


def estimate(
    cascade: Cascade,
    files: list[InputFile],
    shard_rows: int,
    workers: int,
    price_per_hour: float | None,
    ask: bool,
) -> Estimate:
    """Score a sample of a job's rows, and say what all would take.

    Args:
        cascade: Scores.
        files: The input.
        shard_rows: Of the job.
        workers: Processes, each of which has its share of this one's threads.
        price_per_hour: Of all machines; None where it is not known.
        ask: Whether to ask the language model, for the time it takes.

    Raises:
        DataError: If the input cannot be used.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // workers))
    try:
        found = _estimate(cascade, files, shard_rows, workers, ask)
    finally:
        torch.set_num_threads(threads)
    return replace(found, price_per_hour=price_per_hour)


def _estimate(
    cascade: Cascade, files: list[InputFile], shard_rows: int, workers: int, ask: bool
) -> Estimate:
    tables = scan_input(files, cascade)
    counts = [count_rows([table]) for table in tables]
    rows = sum(counts)
    if not rows:
        raise DataError(f"no rows in the input ({files[0].path}): give files that have some")
    pairs, crm_logit = _sample(cascade, tables, files, counts)
    cascade.score_crm(pairs, crm_logit)  # a warm-up
    begin = time.perf_counter()
    scored = cascade.score_crm(pairs, crm_logit)
    crm_seconds = (time.perf_counter() - begin) / len(scored.samples) * rows / workers
    router = cascade.router
    above, value = router.above(scored.known), router.value(scored.known)
    llm_rows = min(round(float(above.mean()) * rows), most_routed(router.limit, rows))
    llm_tokens, llm_seconds = 0, 0.0 if ask else None
    if llm_rows:
        count = min(LLM_ROWS, max(1, round(llm_rows / rows * len(above))))
        best = torch.from_numpy(np.flatnonzero(most_valuable(above, value, count)))
        chosen, models, log = scored.samples[best], cascade.models, scored.log
        llm_tokens = round(models.llm_tokens(log, chosen) / len(chosen) * llm_rows)
        if ask:
            models.llm_logits(log, chosen[:1])  # a warm-up
            begin = time.perf_counter()
            models.llm_logits(log, chosen)
            llm_seconds = (time.perf_counter() - begin) / len(chosen) * llm_rows / workers
    shards = shards_of(rows, shard_rows)
    return Estimate(rows, shards, len(above), llm_rows, llm_tokens, crm_seconds, llm_seconds)


def _sample(
    cascade: Cascade, tables: list[pl.LazyFrame], files: list[InputFile], counts: list[int]
) -> tuple[Pairs, Floats | None]:
    """Rows from evenly spaced places of the input, and their logits if the CRM is external."""
    starts = np.cumsum([0, *counts])
    places = np.unique(np.linspace(0, starts[-1], PLACES, endpoint=False).astype(int))
    step = min(ROWS_AT_A_PLACE, -(-int(starts[-1]) // len(places)))
    found, logits = [], []
    for place in places:
        number = int(np.searchsorted(starts, place, side="right")) - 1
        first = int(place - starts[number])
        name = files[number].path
        with readable(name):
            table = tables[number].slice(first, step).collect()
        found.append(read_pairs(cascade.log, table, name, first + 1, cascade.recipe.times))
        if cascade.models.crm is None:
            config = cascade.recipe.crm.external
            logits.append(score_logits(table, config, Path(name), first + 1).to_numpy())
    time = None if found[0].time is None else torch.cat([one.time for one in found])
    pairs = Pairs(torch.cat([p.user for p in found]), torch.cat([p.item for p in found]), time)
    return pairs, np.concatenate(logits) if logits else None
