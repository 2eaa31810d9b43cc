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
from corellarec.base.metrics import Floats, entropy, losses
from corellarec.serve.decisions import SCHEMA, About, user_hash
from corellarec.serve.store import Store

KEY = "decision_key"
FEWEST_USERS = 10


@dataclass(frozen=True)
class Gain:
    """Log loss (nats) that asking saves on a row above the threshold.

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
        rows: Rows with a label.
        users: Of these.
        above: Share of the rows that are above the threshold.
        explored: Rows above the threshold that were not to be asked about: the comparison.
        inverse_propensity: Gain by inverse propensity weights, normalised.
        doubly_robust: Gain by the router's expectation, corrected by the same weights.
        paired: Gain on the rows that were to be asked about, each compared with the CRM's answer to
            the same row. Much narrower; it holds where what is served does not change what users
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
        gains: On the rows that count.
        answered: Share of the rows to be asked about that the language model answered.
        unlabelled: Share of all logged rows that have no later event.
        over_budget: Share of the labelled rows that were left out, since the budget was spent.
    """

    gains: Gains
    answered: float
    unlabelled: float
    over_budget: float


def estimate(directory: Path, store: str | None = None, hours: float = 24.0,
             positive_rating: float = 4.0) -> Estimate:  # fmt: skip
    """Estimate the gain of asking, by intention: what time-outs made of a decision is part of it.

    Args:
        directory: Of the log.
        store: SQLite file or PostgreSQL URL with the events; by default the one that the log names.
        hours: An event labels a row that was decided at most so long before.
        positive_rating: A rating at or above it is a positive label.

    Raises:
        DataError: If there are too few rows to tell.
    """
    about = read_json(directory / "about.json", About)
    place = store or about.store
    if not place:
        raise DataError(f"{directory}: the events are in PostgreSQL: give its URL (--store)")
    log = _read(directory)
    labelled = _with_labels(log, Store(place), hours, positive_rating)
    eligible = labelled.filter(pl.col("eligible"))
    asked = eligible.filter(pl.col("asked"))["reason"].to_list()
    return Estimate(
        gains_of(eligible),
        answered=asked.count("asked") / max(len(asked), 1),
        unlabelled=1 - labelled.height / max(log.height, 1),
        over_budget=1 - eligible.height / max(labelled.height, 1),
    )


def gains_of(rows: pl.DataFrame) -> Gains:
    """What labelled rows of the log say.

    Args:
        rows: ``user``, ``label``, and the log's ``p``, ``p_crm``, ``value``, ``threshold``,
            ``asked``, ``propensity``.

    Raises:
        DataError: If nothing can be compared.
    """
    above = (rows["value"] > rows["threshold"]).to_numpy()
    asked, propensity = rows["asked"].to_numpy(), rows["propensity"].to_numpy()
    _, cluster = np.unique(rows["user"].to_numpy(), return_inverse=True)
    explored = int((above & ~asked).sum())
    if above.sum() < 2 or explored < 2 or cluster.max(initial=-1) + 1 < FEWEST_USERS:
        raise DataError(
            f"{rows.height} labelled rows of {cluster.max(initial=-1) + 1} users, {explored} of "
            f"them above the threshold and not asked about: too few to tell; at least 2 such rows "
            f"and {FEWEST_USERS} users are needed: collect more decisions, or explore a larger "
            "share"
        )
    label = rows["label"].to_numpy().astype(np.int8)
    loss = losses(label, rows["p"].to_numpy())
    # The router's expectation: a calibrated CRM loses its entropy, and asking saves the value.
    expected_crm = entropy(rows["p_crm"].to_numpy())
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
    saved = treated_alone * (losses(label, rows["p_crm"].to_numpy()) - loss)
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


def _read(directory: Path) -> pl.DataFrame:
    files = sorted(directory.glob("????-??-??/*.parquet"))
    if not files:
        raise DataError(f"{directory}: no decisions yet")
    with readable(directory):
        rows = pl.concat([pl.read_parquet(path).select(list(SCHEMA)) for path in files])
    return rows.filter(pl.col("reason") != "shadow")


def _with_labels(
    log: pl.DataFrame, store: Store, hours: float, positive_rating: float
) -> pl.DataFrame:
    """The log's rows that a later event of the same user and item labels, with ``label``."""
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
    return (
        log.sort("time")
        .join_asof(
            table.sort("at"),
            left_on="time",
            right_on="at",
            by=["user", "item"],
            strategy="forward",
            tolerance=f"{round(hours * 3600)}s",
        )
        .filter(pl.col("label").is_not_null())
    )
