"""Ranking as a task: the log as it was when a split began, and who then took what."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from corellarec.base.errors import DataError
from corellarec.data.log import Log
from corellarec.data.splits import HISTORY_ONLY, SPLITS

MOST_CELLS = 2_000_000_000  # of users times items: two tables of a byte each are in memory


@dataclass(frozen=True)
class RankingTask:
    """Items to rank for users at one moment, and those that are relevant.

    Args:
        log: What the log held at that moment and nothing later: histories, counts, statistics.
        user: ``(users,)`` int64 numbers, ascending, of those who have a relevant item.
        candidate: ``(candidates,)`` int64 numbers, ascending, of the items that had a row by then.
        open: ``(users, candidates)`` bool, what may be recommended to whom.
        relevant: ``(users, candidates)`` bool, what each user liked in the split; all of it open.
        cut: The moment, microseconds since 1970: the split's first row.
        positives: Positive rows of the split, of the users drawn ...
        new: ... of which so many are of items that had no row yet ...
        seen: ... and so many of items that the user had seen, where these are left out.
    """

    log: Log
    user: NDArray[np.int64]
    candidate: NDArray[np.int64]
    open: NDArray[np.bool_]
    relevant: NDArray[np.bool_]
    cut: int
    positives: int
    new: int
    seen: int

    @property
    def relevant_count(self) -> NDArray[np.int64]:
        """``(users,)`` relevant items of each user."""
        return self.relevant.sum(1)

    @property
    def returning(self) -> NDArray[np.bool_]:
        """``(users,)`` whether a user has training rows."""
        return (self.log.user_train_rows[self.user] > 0).numpy()

    @property
    def history_length(self) -> NDArray[np.int64]:
        """``(users,)`` history rows of each user."""
        begin, end = self.log.history_range(torch.from_numpy(self.user))
        return (end - begin).numpy()


def as_of(log: Log, split: str) -> Log:
    """The log as it was when a split began: rows of earlier splits, and history-only ones before.

    Args:
        log: The prepared log.
        split: ``validation`` or ``test``.
    """
    number = SPLITS.index(split)
    cut = _first_time(log, split)
    earlier = (pl.col("split") < number) | (
        (pl.col("split") == HISTORY_ONLY) & (pl.col("time").dt.epoch("us") < cut)
    )
    rows = log.rows.filter(earlier)
    return Log(rows, log.users, log.items, log.features, log.history, log.ties, log.negatives)


def ranking_task(
    log: Log,
    split: str,
    who: str,
    *,
    mask_seen: bool = True,
    sampled: int = 0,
    users: int = 0,
    seed: int = 0,
) -> RankingTask:
    """What is to be ranked when a split begins.

    Histories end there: no row of the split is known, the user's own earlier ones of it neither.
    Candidates are all items that had a row by then. A user's relevant items are those of his
    positive rows in the split, as far as they are candidates; users without one are left out.

    Args:
        log: The prepared log.
        split: ``validation`` or ``test``.
        who: Who reads labels of the test split.
        mask_seen: Whether items that a user has rows of are neither recommended to him nor
            relevant.
        sampled: Irrelevant candidates for each user, drawn evenly; 0 is all. Metrics of sampled
            candidates need not order models as those of all do (Krichene & Rendle 2020,
            https://doi.org/10.1145/3394486.3403226).
        users: Random users to rank for; 0 is all.
        seed: Of the draws.

    Raises:
        DataError: If no user has a relevant item, or there are too many users and items.
    """
    past = as_of(log, split)
    rows = log.rows_of(split)
    label = log.test_labels(rows, who) if split == "test" else log.labels(rows)
    rows = rows[label == 1]
    user, item = log.user[rows].numpy().astype(np.int64), log.item[rows].numpy()
    generator = np.random.default_rng(seed)
    chosen = np.unique(user)
    if users and users < len(chosen):
        chosen = np.sort(generator.choice(chosen, users, replace=False))
        user, item = user[drawn := np.isin(user, chosen)], item[drawn]
    taken = taken_items(past)
    candidate = np.flatnonzero(np.bincount(taken.indices, minlength=log.items.height))
    if len(chosen) * log.items.height > MOST_CELLS:
        raise DataError(
            f"{len(chosen):,} users times {log.items.height:,} items are more than "
            f"{MOST_CELLS:,}: rank for fewer users (--users)"
        )
    known = np.isin(item, candidate)
    relevant = np.zeros((len(chosen), log.items.height), dtype=bool)
    relevant[np.searchsorted(chosen, user[known]), item[known]] = True
    relevant = relevant[:, candidate]
    open_ = np.ones_like(relevant)
    again = 0
    if mask_seen:
        open_ = ~taken[chosen][:, candidate].toarray()
        place = np.searchsorted(candidate, item[known])
        again = int((~open_[np.searchsorted(chosen, user[known]), place]).sum())
        relevant &= open_
    some = relevant.any(1)
    if not some.any():
        raise DataError(
            f"no user has a positive {split} row of an item that can be ranked: "
            + ("rank seen items, too (--include-seen), or " if again else "")
            + "use a larger split (data.split)"
        )
    chosen, relevant, open_ = chosen[some], relevant[some], open_[some]
    if sampled:
        open_ = _sampled(open_, relevant, sampled, generator)
    return RankingTask(
        log=past,
        user=chosen,
        candidate=candidate,
        open=open_,
        relevant=relevant,
        cut=_first_time(log, split),
        positives=len(user),
        new=int((~known).sum()),
        seen=again,
    )


def positive_items(log: Log, since: int | None = None) -> csr_array:
    """``(users, items)`` float64: 1 where a user has a positive row of an item.

    Args:
        log: A log without rows of the test split.
        since: Microseconds since 1970; only rows from then on count.
    """
    rows = torch.arange(len(log))
    some = log.labels(rows) == 1
    return _matrix(log, some if since is None else some & (log.time >= since))


def positive_rows(log: Log, since: int | None = None) -> NDArray[np.int64]:
    """``(items,)`` positive rows of each item, as :func:`positive_items` takes them."""
    rows = torch.arange(len(log))
    some = log.labels(rows) == 1
    if since is not None:
        some &= log.time >= since
    return np.bincount(log.item[some].numpy(), minlength=log.items.height)


def taken_items(log: Log) -> csr_array:
    """``(users, items)`` bool: whether the user has a row of the item, whatever its label.

    Drawn negatives are none.
    """
    if log.negatives:
        return csr_array(positive_items(log), dtype=bool)
    return csr_array(_matrix(log, torch.ones(len(log), dtype=torch.bool)), dtype=bool)


def _matrix(log: Log, some: torch.Tensor) -> csr_array:
    user, item = log.user[some].numpy(), log.item[some].numpy()
    shape = (log.users.height, log.items.height)
    found = csr_array((np.ones(len(user)), (user, item)), shape=shape)
    found.sum_duplicates()
    found.data[:] = 1.0
    return found


def _sampled(
    open_: NDArray[np.bool_],
    relevant: NDArray[np.bool_],
    count: int,
    generator: np.random.Generator,
) -> NDArray[np.bool_]:
    """Of what is open to each user the relevant items, and so many others."""
    drawn = np.where(open_ & ~relevant, generator.random(open_.shape), np.inf)
    count = min(count, open_.shape[1])
    best = np.argpartition(drawn, count - 1, axis=1)[:, :count]
    found = np.zeros_like(open_)
    np.put_along_axis(found, best, np.isfinite(np.take_along_axis(drawn, best, 1)), 1)
    return found | relevant


def _first_time(log: Log, split: str) -> int:
    return int(log.time[log.rows_of(split)].min())
