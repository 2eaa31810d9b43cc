"""Negatives for a log without: items that the user did not take, drawn from those there were."""

import copy
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corellarec.config import NegativesConfig
from corellarec.data.splits import HISTORY_ONLY, SPLITS

if TYPE_CHECKING:
    from corellarec.data.log import Log

TRIES = 100  # draws for a negative, of which one is no item of the user


class NegativePool:
    """What negatives of one split are drawn from: the rows of that split and of those before it.

    A negative of a training row may be an item that the user takes in a later split: leaving such
    items out would tell the models what is in the test split.

    Args:
        user, item: ``(n,)`` int32, what users took.
        time: ``(n,)`` int64, when.
        items: How many items there are.
        by: ``popularity``: an item is drawn as often as users took it until then; ``uniform``:
            every item that a user had taken by then is as likely.
    """

    def __init__(
        self,
        user: NDArray[np.int32],
        item: NDArray[np.int32],
        time: NDArray[np.int64],
        items: int,
        by: str,
    ) -> None:
        self._items = items
        self._taken = np.unique(user.astype(np.int64) * items + item)
        # A random earlier row is a random item by popularity; among the first rows of items alone,
        # one of uniform weight.
        order = np.argsort(time, kind="stable")
        if by == "uniform":
            order = order[np.sort(np.unique(item[order], return_index=True)[1])]
        self._item, self._time = item[order], time[order]

    def draw(
        self,
        user: NDArray[np.int32],
        time: NDArray[np.int64],
        generator: np.random.Generator,
        group: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int32]:
        """``(n,)`` int32 an item for each row, -1 where none was found.

        Args:
            user: ``(n,)`` an item of whom is not drawn.
            time: ``(n,)`` the item has been taken by somebody then, or before.
            generator: Draws.
            group: ``(n,)`` rows of one group get different items.
        """
        until = np.searchsorted(self._time, time, side="right")
        found = np.full(len(user), -1, np.int32)
        left = np.flatnonzero(until > 0)
        settled = np.ones(len(user), dtype=bool)
        near = np.arange(len(user))  # rows of groups in which some are left
        for _ in range(TRIES):
            place = (generator.random(len(left)) * until[left]).astype(np.int64)
            found[left] = self._item[place]
            bad = self._took(user[left], found[left])
            if group is not None:
                settled[left] = False
                repeated = np.zeros(len(user), dtype=bool)
                repeated[near] = _repeats(group[near] * self._items + found[near], settled[near])
                bad |= repeated[left]
                settled[left] = ~bad
            left = left[bad]
            if not len(left):
                break
            if group is not None:
                near = near[np.isin(group[near], group[left])]
        found[left] = -1
        return found

    def _took(self, user: NDArray[np.int32], item: NDArray[np.int32]) -> NDArray[np.bool_]:
        wanted = user.astype(np.int64) * self._items + item
        place = np.searchsorted(self._taken, wanted).clip(max=len(self._taken) - 1)
        return self._taken[place] == wanted


def _repeats(keys: NDArray[np.int64], settled: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each key is that of another place, which is settled or comes later."""
    order = np.lexsort((settled, keys))
    repeated = np.zeros(len(keys), dtype=bool)
    repeated[order[:-1]] = keys[order[:-1]] == keys[order[1:]]
    return repeated


def known_by(split: NDArray[np.int8], number: int) -> NDArray[np.bool_]:
    """Rows of a split, by its number, of those before it, and history-only rows."""
    return (split <= number) | (split == HISTORY_ONLY)


def with_negatives(rows: pl.DataFrame, items: int, config: NegativesConfig) -> pl.DataFrame:
    """Rows with drawn negatives among them, sorted by user, time and item.

    Args:
        rows: What users did: ``user``, ``item``, ``label`` (all 1), ``time``, ``split`` and more,
            sorted by user, time and item.
        items: How many items there are.
        config: How many, how, and the seed.

    Returns:
        The rows, and below each of a split up to ``config.per_positive`` with label 0: the same
        but for the item. Fewer where the user took nearly all that there was.
    """
    user, item, split = (rows[name].to_numpy() for name in ("user", "item", "split"))
    time = rows["time"].to_physical().to_numpy()
    moment = np.cumsum(np.append(True, (np.diff(user) != 0) | (np.diff(time) != 0)))
    drawn = []
    for number in range(len(SPLITS)):
        known = known_by(split, number)
        pool = NegativePool(user[known], item[known], time[known], items, config.by)
        row = np.flatnonzero(split == number).repeat(config.per_positive)
        generator = np.random.default_rng([config.seed, number])
        found = pool.draw(user[row], time[row], generator, moment[row])
        kept = found >= 0
        drawn.append(
            rows[row[kept]].with_columns(
                item=pl.Series(found[kept]),
                label=pl.lit(0, pl.Int8),
                level=pl.lit(0, pl.Int8),
            )
        )
    return pl.concat([rows, *drawn]).sort("user", "time", "item")


class Redraw:
    """Other negatives for the training rows of a log.

    Args:
        log: The prepared log.
    """

    def __init__(self, log: "Log") -> None:
        self.log = log
        if log.negatives is None:
            return
        rows = log.rows_of("train")
        self._rows = rows[log.labels(rows) == 0].numpy()
        rows = log.history_rows.numpy()
        rows = rows[known_by(log.split.numpy()[rows], 0)]
        user, item, time = (one.numpy()[rows] for one in (log.user, log.item, log.time))
        self._pool = NegativePool(user, item, time, log.items.height, log.negatives.by)

    def __call__(self, *seed: int) -> "Log":
        """The log with the negatives that a seed draws; itself where its negatives are its own."""
        log = self.log
        if log.negatives is None:
            return log
        generator = np.random.default_rng([log.negatives.seed, *seed])
        user, time = log.user.numpy()[self._rows], log.time.numpy()[self._rows]
        item = self._pool.draw(user, time, generator)
        found = copy.copy(log)
        found.item = log.item.clone()
        found.item.numpy()[self._rows[item >= 0]] = item[item >= 0]
        return found


def log_shares(
    train_rows: NDArray[np.int64], negatives: NegativesConfig | None
) -> NDArray[np.float64]:
    """``(items,)`` log probability that a negative is each item, as of the end of training.

    An item without training rows, which is never drawn then, is as likely as it would be with its
    first row. It takes no share from the others: a catalogue lists any number of such items.

    Args:
        train_rows: ``(items,)`` training rows of each item.
        negatives: How they are drawn; zeros where they are not.
    """
    rows = train_rows + 1.0
    if negatives is None:
        return np.zeros(len(rows))
    rows = np.ones(len(rows)) if negatives.by == "uniform" else rows
    return np.log(rows / max(rows[train_rows > 0].sum(), 1.0))
