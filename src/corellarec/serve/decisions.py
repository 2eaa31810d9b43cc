"""The log of decisions: what was decided for each row, by which chance, and what came of it.

Decisions by a threshold leave nothing to compare with. So a set share of the rows is decided
against it, by a keyed hash of the row, and every row's propensity is known.
"""

import hashlib
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corellarec.base.artifacts import whole, write_json
from corellarec.serve.settings import DecisionSettings

SCHEMA = {
    "request_id": pl.String, "time": pl.Datetime("us", "UTC"), "user": pl.String,
    "item": pl.String, "position": pl.Int32, "model": pl.String, "p_crm": pl.Float64,
    "value": pl.Float64, "threshold": pl.Float64, "credit": pl.Float64, "eligible": pl.Boolean,
    "asked": pl.Boolean, "propensity": pl.Float64, "reason": pl.String, "p": pl.Float64,
    "p_llm": pl.Float64, "milliseconds": pl.Float64, "place": pl.Int32,
}  # fmt: skip
"""Columns of the files; ``asked`` is what was decided, ``reason`` what came of it.

``place`` is null, but where a list was decided as a whole: its rows are in the CRM's order
(``position``) and were answered in this one, and the other columns of the decision are the list's.
"""
LIST = "list"  # takes the place of an item where a list is explored
ROWS_KEPT = 20_000  # that wait to be written


@dataclass(frozen=True)
class About:
    """What the directory of the log says of itself.

    Args:
        store: Path of the SQLite store that has the events; empty for PostgreSQL.
        explored_share: Share of rows decided against the threshold.
    """

    store: str
    explored_share: float


@dataclass(frozen=True)
class Decided:
    """One request's rows.

    Args:
        request_id, time, user, model: Of the request.
        items: ``n`` ids.
        p_crm, value, p, p_llm: ``(n,)`` each.
        asked: ``(n,)`` whether the language model was to be asked.
        above: ``(n,)`` whether the value is above the threshold.
        threshold: Of the router.
        credit: Rows that the budget allowed then.
        eligible: Whether it allowed all that were to be asked about.
        reasons: ``n`` reasons.
        milliseconds: From the request's arrival.
        place: ``(n,)`` places in the answer, where they are a list that was decided as a whole.
    """

    request_id: str
    time: datetime
    user: str
    model: str
    items: Sequence[str]
    p_crm: NDArray[np.float64]
    value: NDArray[np.float64]
    p: NDArray[np.float64]
    p_llm: NDArray[np.float64]
    asked: NDArray[np.bool_]
    above: NDArray[np.bool_]
    threshold: float
    credit: float
    eligible: bool
    reasons: Sequence[str]
    milliseconds: float
    place: NDArray[np.int64] | None = None


def user_hash(key: str, user: str) -> str:
    """A user as the log names it; who does not have the key cannot tell the id."""
    return hashlib.blake2b(user.encode(), key=key.encode(), digest_size=16).hexdigest()


class DecisionLog:
    """Writes decisions as Parquet files, one directory for each day.

    Args:
        settings: Where, how many are explored, and for how long.
        key: Of the hashes; a secret of the store.
        store: What :class:`About` says.
    """

    def __init__(self, settings: DecisionSettings, key: str, store: str) -> None:
        assert settings.directory is not None
        self.directory, self.settings, self.key = Path(settings.directory), settings, key
        self._rows: list[Decided] = []
        self._lock = threading.Lock()
        self._written = 0
        self.directory.mkdir(parents=True, exist_ok=True)
        write_json(self.directory / "about.json", About(store, settings.explored_share))

    def explored(self, request_id: str, user: str, items: Sequence[str]) -> NDArray[np.bool_]:
        """Which rows are decided against the threshold."""
        share = self.settings.explored_share
        seed = hashlib.blake2b(f"{request_id}\0{user}".encode(), key=self.key.encode())
        found = np.zeros(len(items), dtype=bool)
        for place, item in enumerate(items):
            one = seed.copy()
            one.update(item.encode())
            found[place] = int.from_bytes(one.digest()[:7], "big") / 2**56 < share
        return found

    def add(self, decided: Decided) -> None:
        """Keep a request's rows until they are written; where too many wait, they are dropped."""
        with self._lock:
            if len(self._rows) < ROWS_KEPT:
                self._rows.append(decided)

    def write(self) -> None:
        """Write what waits, and delete what is too old. Errors of the disk lose what waited."""
        with self._lock:
            rows, self._rows = self._rows, []
            self._written += bool(rows)
        now = datetime.now(UTC)
        if rows:
            table = pl.concat([self._table(one) for one in rows])
            name = f"{now:%H%M%S}-{time.time_ns() % 10**9:09}-{self._written}.parquet"
            with whole(self.directory / f"{now:%Y-%m-%d}" / name) as unfinished:
                table.write_parquet(unfinished)
        oldest = f"{now - timedelta(days=self.settings.days_kept):%Y-%m-%d}"
        for day in self.directory.glob("????-??-??"):
            if day.name < oldest:
                shutil.rmtree(day, ignore_errors=True)

    def erase(self, user: str) -> None:
        """Remove a user's rows."""
        self.write()
        name = user_hash(self.key, user)
        for path in sorted(self.directory.glob("????-??-??/*.parquet")):
            table = pl.read_parquet(path)
            kept = table.filter(pl.col("user") != name)
            if kept.height < table.height:
                with whole(path) as unfinished:
                    kept.write_parquet(unfinished)

    def _table(self, one: Decided) -> pl.DataFrame:
        count, share = len(one.items), self.settings.explored_share
        as_decided = one.asked == one.above
        return pl.DataFrame(
            {
                "request_id": [one.request_id] * count,
                "time": [one.time] * count,
                "user": [user_hash(self.key, one.user)] * count,
                "item": one.items,
                "position": range(count),
                "model": [one.model] * count,
                "p_crm": one.p_crm,
                "value": one.value,
                "threshold": [one.threshold] * count,
                "credit": [one.credit] * count,
                "eligible": [one.eligible] * count,
                "asked": one.asked,
                "propensity": np.where(as_decided, 1 - share, share),
                "reason": one.reasons,
                "p": one.p,
                "p_llm": pl.Series(one.p_llm, dtype=pl.Float64).fill_nan(None),
                "milliseconds": [one.milliseconds] * count,
                "place": [None] * count if one.place is None else one.place,
            },
            schema=SCHEMA,
        )
