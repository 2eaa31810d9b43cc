"""Statistics of a log without negatives: how often items were taken, as of a row."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corellarec.data.statistics import STATISTICS

if TYPE_CHECKING:
    from corellarec.data.log import Log, Samples

LEVELS = 10
ITEM_SHARE, ITEM_ROWS, USER_ROWS, FIRST_ROW = (
    STATISTICS.index(name)
    for name in ("item log odds", "item log rows", "user log rows", "first row")
)


class Counts:
    """The columns of ``STATISTICS`` that counts of positive rows can fill; the others are 0.

    A share of positives says nothing where negatives were drawn: by popularity it is the same for
    all items. In its place stands the log of the item's share of the rows, over that of an item
    of mean popularity.

    A training row counts the training rows before it, every other row all of them. A drawn negative
    is an item that somebody had taken before, which a positive need not be: that row is not
    counted, as a positive row does not count itself. Otherwise an item without rows would always
    be a positive.

    Args:
        log: The prepared log.
    """

    def __init__(self, log: "Log") -> None:
        rows = log.rows_of("train").numpy()
        drawn = log.labels(log.rows_of("train")).numpy() == 0
        self._counted = rows[~drawn]
        self._is_train, self._is_drawn = np.zeros((2, len(log)), dtype=bool)
        self._is_train[rows], self._is_drawn[rows] = True, drawn
        times, self._moment = np.unique(log.time.numpy(), return_inverse=True)
        self._moments, items = len(times), log.items.height
        item, moment = log.item.numpy()[self._counted], self._moment[self._counted]
        self._keys = np.sort(item.astype(np.int64) * self._moments + moment)
        self._until = np.bincount(moment, minlength=self._moments).cumsum()
        self.item_rows = np.bincount(item, minlength=items)
        self._taken = max(1, int((self.item_rows > 0).sum()))

    def over(self, log: "Log") -> "Counts":
        """The same of other histories, which do not bear on it."""
        return self

    def rows_before(
        self, item: NDArray[np.int64], row: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of items, and of all, that count for samples.

        Args:
            item: ``(n,)`` item numbers.
            row: ``(n,)`` rows of the log; -1 where a sample is none.
        """
        count = self.item_rows[item]
        total = np.full(len(item), len(self._counted))
        train = np.flatnonzero((row >= 0) & self._is_train[row])
        moment, of = self._moment[row[train]], item[train]
        first = np.searchsorted(self._keys, of * self._moments)
        before = np.searchsorted(self._keys, of * self._moments + moment) - first
        count[train] = (before - self._is_drawn[row[train]]).clip(min=0)
        total[train] = np.where(moment > 0, self._until[moment - 1], 0)
        return count, total

    def log_share(self, item: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.float64]:
        """``(n,)`` log of items' shares of the rows, one more row for each item that has some."""
        count, total = self.rows_before(item, row)
        return np.log((count + 1) / (total + self._taken))

    def __call__(self, samples: "Samples") -> Tensor:
        """``(n, 12)`` float32 for ``n`` samples."""
        item, row = samples.item.numpy(), samples.row.numpy()
        count, total = self.rows_before(item, row)
        share = np.log((count + 1) / (total + self._taken)) + np.log(self._taken)
        length = (samples.end - samples.begin).float()
        found = torch.zeros(len(samples), len(STATISTICS))
        found[:, ITEM_SHARE] = torch.from_numpy(share)
        found[:, ITEM_ROWS] = torch.from_numpy(np.log1p(count) / 5)
        found[:, USER_ROWS] = length.log1p() / 5
        found[:, FIRST_ROW] = (length == 0).float()
        return found

    def levels(self, log: "Log") -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        """``(rows,)`` and ``(items,)`` levels 0 to 9: tenths of the rows by their item's share.

        Args:
            log: The log that these are the counts of.
        """
        of_rows = self.log_share(log.item.numpy().astype(np.int64), np.arange(len(log)))
        items = np.arange(len(self.item_rows))
        of_items = self.log_share(items, np.full(len(items), -1))
        if not len(self._counted):
            return np.zeros(len(log), np.int8), np.zeros(len(items), np.int8)
        edges = np.quantile(of_rows[self._counted], np.arange(1, LEVELS) / LEVELS)
        found = (np.searchsorted(edges, of, side="right") for of in (of_rows, of_items))
        of_rows, of_items = (level.astype(np.int8) for level in found)
        return of_rows, of_items
