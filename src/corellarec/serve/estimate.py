"""What asking the language model gains in service, from the log of decisions and later events."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import t as student

from corellarec.base.artifacts import read_json
from corellarec.base.errors import DataError
from corellarec.base.frames import readable
from corellarec.base.list_metrics import list_metrics
from corellarec.base.metrics import Floats, entropy, losses
from corellarec.serve.decisions import SCHEMA, About, user_hash
from corellarec.serve.store import Store

KEY = "decision_key"
FEWEST_USERS = 10
PLACES = 10  # of a list, that count


@dataclass(frozen=True)
class Gain:
    """What asking gains on a row or a list above the threshold: log loss in nats, or NDCG.

    Args:
        value: The estimate.
        low: Lower end of its 95 % interval, rows of one user taken together.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Gains:
    """What decisions gained, by three estimates.

    Args:
        rows: Rows with a label, or lists of which the user took something.
        users: Of these.
        above: Share of them that is above the threshold.
        explored: Those above the threshold that were not to be asked about: the comparison.
        inverse_propensity: Gain by inverse propensity weights, normalised.
        doubly_robust: Gain by the router's expectation, corrected by the same weights.
        paired: Gain on those that were to be asked about, each compared with the CRM's answer to
            the same. Much narrower; it holds where what is served does not change what users
            do.
    """

    rows: int
    users: int
    above: float
    explored: int
    inverse_propensity: Gain
    doubly_robust: Gain
    paired: Gain


@dataclass(frozen=True)
class Estimate:
    """What a service's decisions gained.

    Args:
        gains: On the rows, or lists, that count.
        answered: Share of those to be asked about that the language model answered.
        unlabelled: Share of all logged that have no later event; of lists, no positive one.
        over_budget: Share of the labelled that was left out, since the budget was spent.
    """

    gains: Gains
    answered: float
    unlabelled: float
    over_budget: float


def estimate(directory: Path, store: str | None = None, hours: float = 24.0,
             positive_rating: float = 4.0, *, lists: bool = False) -> Estimate:  # fmt: skip
    """Estimate the gain of asking, by intention: what time-outs made of it is part of it.

    Args:
        directory: Of the log.
        store: SQLite file or PostgreSQL URL with the events; by default the one that the log names.
        hours: An event labels what was decided at most so long before.
        positive_rating: A rating at or above it is a positive label.
        lists: Take the lists that were decided as a whole, not the rows that were decided alone.

    Raises:
        DataError: If there is too little to tell.
    """
    about = read_json(directory / "about.json", About)
    place = store or about.store
    if not place:
        raise DataError(f"{directory}: the events are in PostgreSQL: give its URL (--store)")
    log = _read(directory, lists=lists)
    labelled = _with_labels(log, Store(place), hours, positive_rating)
    if lists:
        log, labelled = log.filter(pl.col("position") == 0), lists_of(labelled)
    labelled = labelled.filter(pl.col("label").is_not_null())
    eligible = labelled.filter(pl.col("eligible"))
    asked = eligible.filter(pl.col("asked"))["reason"].to_list()
    return Estimate(
        gains_of(eligible),
        answered=asked.count("asked") / max(len(asked), 1),
        unlabelled=1 - labelled.height / max(log.height, 1),
        over_budget=1 - eligible.height / max(labelled.height, 1),
    )


def lists_of(rows: pl.DataFrame) -> pl.DataFrame:
    """Labelled rows of lists as one row a list of which the user took something.

    Returns:
        The log's columns of each list's first row, and ``ndcg`` and ``ndcg_crm``, of the list as it
        was answered and in the CRM's order.
    """
    taken = (pl.col("label") == 1).fill_null(False)
    keys = ["request_id", "user", "time"]  # callers may give two requests the same id
    lists = rows.with_columns(hit=taken).filter(pl.col("hit").any().over(keys))

    def ndcg(place: str) -> pl.Series:
        one = lists.sort(*keys, place).group_by(keys, maintain_order=True)
        hits = one.agg("hit")["hit"].to_list()
        table = np.zeros((len(hits), max(map(len, hits), default=1)), dtype=bool)
        for row, hit in zip(table, hits, strict=True):
            row[: len(hit)] = hit
        return pl.Series(list_metrics(table, table.sum(1), PLACES)["ndcg"])

    first = lists.filter(pl.col("position") == 0).sort(keys)
    return first.with_columns(label=1, ndcg=ndcg("place"), ndcg_crm=ndcg("position"))


def gains_of(rows: pl.DataFrame) -> Gains:
    """What labelled rows of the log say.

    Args:
        rows: ``user``, and the log's ``value``, ``threshold``, ``asked``, ``propensity``; ``label``
            and the log's ``p`` and ``p_crm``, or of lists ``ndcg`` and ``ndcg_crm``.

    Raises:
        DataError: If nothing can be compared.
    """
    above = (rows["value"] > rows["threshold"]).to_numpy()
    asked, propensity = rows["asked"].to_numpy(), rows["propensity"].to_numpy()
    _, cluster = np.unique(rows["user"].to_numpy(), return_inverse=True)
    explored = int((above & ~asked).sum())
    if above.sum() < 2 or explored < 2 or cluster.max(initial=-1) + 1 < FEWEST_USERS:
        raise DataError(
            f"{rows.height} labelled rows or lists of {cluster.max(initial=-1) + 1} users, "
            f"{explored} of them above the threshold and not asked about: too few to tell; at "
            f"least 2 such and {FEWEST_USERS} users are needed: collect more decisions, or "
            "explore a larger share"
        )
    if "ndcg" in rows.columns:
        loss, loss_crm = 1 - rows["ndcg"].to_numpy(), 1 - rows["ndcg_crm"].to_numpy()
        expected_crm = np.full(len(above), loss_crm.mean())
    else:
        label = rows["label"].to_numpy().astype(np.int8)
        loss, loss_crm = (losses(label, rows[name].to_numpy()) for name in ("p", "p_crm"))
        expected_crm = entropy(rows["p_crm"].to_numpy())  # what a calibrated CRM loses
    expected_asked = expected_crm - rows["value"].to_numpy()
    weight = above / propensity
    treated, control = weight * asked, weight * ~asked
    mean_treated = (treated * loss).sum() / treated.sum()
    mean_control = (control * loss).sum() / control.sum()
    share, count = above.mean(), len(above)
    influence = (
        control * (loss - mean_control) / control.sum()
        - treated * (loss - mean_treated) / treated.sum()
    ) * count
    direct = above * (expected_crm - expected_asked)
    corrected = direct + control * (loss - expected_crm) - treated * (loss - expected_asked)
    robust = corrected.mean() / share
    treated_alone = above & asked
    saved = treated_alone * (loss_crm - loss)
    part = treated_alone.mean()
    paired = saved.mean() / part
    return Gains(
        rows=rows.height,
        users=int(cluster.max()) + 1,
        above=float(share),
        explored=explored,
        inverse_propensity=_gain(mean_control - mean_treated, influence, cluster),
        doubly_robust=_gain(robust, (corrected - robust * above) / share, cluster),
        paired=_gain(paired, (saved - paired * treated_alone) / part, cluster),
    )


def _gain(value: float, influence: Floats, cluster: NDArray[np.int64]) -> Gain:
    """An interval from the influence of each row, summed by user."""
    sums = np.bincount(cluster, influence) / len(influence)
    users = len(sums)
    error = float(np.sqrt((sums**2).sum() * users / (users - 1)))
    reach = float(student.ppf(0.975, users - 1)) * error
    return Gain(float(value), float(value) - reach, float(value) + reach)


def _read(directory: Path, *, lists: bool) -> pl.DataFrame:
    files = sorted(directory.glob("????-??-??/*.parquet"))
    if not files:
        raise DataError(f"{directory}: no decisions yet")
    with readable(directory):
        rows = pl.concat([pl.read_parquet(path).select(list(SCHEMA)) for path in files])
    of_lists = pl.col("place").is_not_null()
    rows = rows.filter(pl.col("reason") != "shadow", of_lists if lists else ~of_lists)
    if lists and rows.is_empty():
        raise DataError(
            f"{directory}: no list was decided as a whole: `corellarec rank RUN --keep` gives a "
            "cascade a policy of lists, and /v1/recommend then decides by it"
        )
    return rows


def _with_labels(
    log: pl.DataFrame, store: Store, hours: float, positive_rating: float
) -> pl.DataFrame:
    """The log's rows with the ``label`` that a later event of the same user and item gives."""
    try:
        key = store.fact(KEY) or ""
        events = store.all_events()
    finally:
        store.close()
    hashes = {user: user_hash(key, user) for user in {event.user for event in events}}
    table = pl.DataFrame(
        {
            "user": [hashes[event.user] for event in events],
            "item": [event.item for event in events],
            "at": pl.Series([event.time for event in events], dtype=pl.Int64)
            .cast(pl.Datetime("us"))
            .dt.replace_time_zone("UTC"),
            "label": [
                int((event.rating or 0.0) >= positive_rating)
                if event.label is None
                else event.label
                for event in events
            ],
        },
        schema_overrides={"user": pl.String, "item": pl.String, "label": pl.Int8},
    )
    return log.sort("time").join_asof(
        table.sort("at"),
        left_on="time",
        right_on="at",
        by=["user", "item"],
        strategy="forward",
        tolerance=f"{round(hours * 3600)}s",
    )
