"""What the log knows of an item and a user at the moment of a row: counts, shares, residuals."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corellarec.data.categories import CategorySums, item_categories

if TYPE_CHECKING:
    from corellarec.data.log import Log, Samples

ITEM_PRIOR = 10  # rows of the global mean that every item starts with
USER_PRIOR = 5  # and every user
STATISTICS = (
    "item log odds",
    "item log rows",
    "item rating",
    "user log odds",
    "user log rows",
    "user residual",
    "expected rating",
    "first row",
    "category log odds",
    "category log rows",
    "category residual",
    "category expected rating",
)


@dataclass(frozen=True)
class Ordered:
    """Counts and sums over an item's training rows: those before a row, and all.

    Args:
        row_count, row_sum: ``(rows,)`` of a training row the item's training rows before it, of any
            other row all of them.
        item_count, item_sum: ``(items,)`` of all training rows.
    """

    row_count: NDArray[np.int64]
    row_sum: NDArray[np.float64]
    item_count: NDArray[np.int64]
    item_sum: NDArray[np.float64]


def ordered_sums(
    item: NDArray[np.int32],
    time: NDArray[np.int64],
    train: NDArray[np.int64],
    value: NDArray[np.floating] | NDArray[np.integer],
    items: int,
) -> Ordered:
    """Ordered target statistics: no training row counts itself, or a later one.

    Args:
        item: ``(rows,)`` each row's item.
        time: ``(rows,)`` in any unit.
        train: ``(n,)`` numbers of the training rows ...
        value: ``(n,)`` ... and what is summed of each.
        items: How many items there are.

    Source: Prokhorenkova et al. 2018, https://arxiv.org/abs/1706.09516
    """
    order = np.lexsort((time[train], item[train]))
    train, of = train[order], item[train[order]]
    first = np.searchsorted(of, of)  # where the rows of each row's item begin
    total = np.concatenate([[0.0], value[order].cumsum(dtype=np.float64)])
    count = np.bincount(of, minlength=items)
    last = count.cumsum()
    item_sum = total[last] - total[last - count]
    row_count, row_sum = count[item], item_sum[item]
    row_count[train] = np.arange(len(train)) - first
    row_sum[train] = total[:-1] - total[first]
    return Ordered(row_count, row_sum, count, item_sum)


class Statistics:
    """Features of a sample that the log's rows before it make; the columns of ``STATISTICS``.

    Of the item: log odds of its smoothed share of positives less the global ones, log of its rows,
    mean rating. Of the user: the same of its history, and its residual, the mean by which its
    ratings lie above those of the items. Of the user and the item's categories, the values of its
    features: log odds and residual of the history's rows of items that share one, smoothed toward
    those of all its rows and less them, and the log of these rows. Items count training rows alone,
    and a training row those before it; users count their history. Ratings are standardised over the
    training rows; a log without ratings has its labels in their place.

    Args:
        log: The prepared log.
    """

    def __init__(self, log: "Log") -> None:
        train = log.rows_of("train")
        label, rows = log.labels(train).numpy().astype(np.float64), train.numpy()
        rate = float(label.mean()) if len(label) else 0.5
        self.rate = min(max(rate, 0.01), 0.99)
        item, time, items = log.item.numpy(), log.time.numpy(), log.items.height
        level = log.rows["level"].to_numpy()[rows]
        rating = _level_ratings(log.features.ratings, level, label)
        liked = ordered_sums(item, time, rows, label, items)
        rated = ordered_sums(item, time, rows, rating[level], items)
        smoothed = rated.row_sum / (rated.row_count + ITEM_PRIOR)
        of_items = rated.item_sum / (rated.item_count + ITEM_PRIOR)
        self._row_item = self._item(liked.row_count, liked.row_sum, smoothed)
        self._item_item = self._item(liked.item_count, liked.item_sum, of_items)
        self._rating, self._smoothed = rating, (smoothed, of_items)
        self._categories = item_categories(log)
        self._read_histories(log)
        self._own_range = log.range_of_rows
        self._of_rows = np.full((len(log), 3), np.nan, np.float32)

    def over(self, log: "Log") -> "Statistics":
        """The same of other histories: those of ``log``, a view of the log (``histories.over``)."""
        found = copy.copy(self)
        found._read_histories(log)
        found._of_rows = found._of_rows[:0]  # its samples are no rows of the log
        return found

    def _read_histories(self, log: "Log") -> None:
        self._liked_before = log.liked_before
        row, (of_rows, of_items) = log.history_rows.numpy(), self._smoothed
        expected = of_rows[row]
        if (row < 0).any():
            expected = np.where(row < 0, of_items[log.history_item.numpy()], expected)
        of_history = self._rating[log.history_level.numpy()] - expected
        residual = torch.from_numpy(of_history)
        self._residual_before = torch.cat([residual.new_zeros(1), residual.cumsum(0)])
        self._history = (log.history_item, log.history_label, residual)
        self._sums: CategorySums | None = None

    def _item(
        self, count: NDArray[np.int64], positives: NDArray[np.float64], rating: NDArray[np.float64]
    ) -> Tensor:
        share = (positives + ITEM_PRIOR * self.rate) / (count + ITEM_PRIOR)
        columns = np.column_stack([self._odds(share), np.log1p(count) / 5, rating])
        return torch.from_numpy(columns.astype(np.float32))

    def _odds(self, share: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.log(share / (1 - share)) - np.log(self.rate / (1 - self.rate))

    def __call__(self, samples: "Samples") -> Tensor:
        """``(n, 12)`` float32 for ``n`` samples."""
        in_log = samples.row >= 0
        if in_log.all():
            of_item = self._row_item[samples.row]
        else:
            of_item = self._item_item[samples.item]
            of_item[in_log] = self._row_item[samples.row[in_log]]
        rows = (samples.end - samples.begin).double()
        liked = (self._liked_before[samples.end] - self._liked_before[samples.begin]).double()
        share = (liked + USER_PRIOR * self.rate) / (rows + USER_PRIOR)
        residual = self._residual_before[samples.end] - self._residual_before[samples.begin]
        residual = residual / (rows + USER_PRIOR)
        alike, liked, of_alike = self._of_categories(samples).unbind(1)
        of_alike = (of_alike + USER_PRIOR * residual) / (alike + USER_PRIOR)
        odds = torch.from_numpy(self._odds(share.numpy()))
        alike_share = (liked + USER_PRIOR * share) / (alike + USER_PRIOR)
        columns = [
            odds,
            rows.log1p() / 5,
            residual,
            of_item[:, 2] + residual,
            rows == 0,
            torch.from_numpy(self._odds(alike_share.numpy())) - odds,
            alike.log1p() / 5,
            of_alike - residual,
            of_item[:, 2] + of_alike,
        ]
        return torch.cat([of_item, torch.stack(columns, 1).float()], 1)

    def _of_categories(self, samples: "Samples") -> Tensor:
        """``(n, 3)`` float32: the history's rows that share a category, positives, residuals.

        Those of the log's own rows are kept: training asks again in each epoch.
        """
        if self._sums is None:
            item, label, residual = self._history
            summed = torch.stack([label.double(), residual], 1)
            self._sums = CategorySums(self._categories, item, summed)
        if not len(self._of_rows):
            return self._sums(samples).float()
        row = samples.row.clamp(min=0)
        found = self._of_rows[row.numpy()]
        begin, end = self._own_range(row)
        same = (begin == samples.begin) & (end == samples.end)
        is_row = (same & (samples.row >= 0)).numpy()
        new = ~is_row | np.isnan(found[:, 0])
        if new.any():
            found[new] = self._sums(samples[torch.from_numpy(new)]).numpy()
            self._of_rows[row.numpy()[new & is_row]] = found[new & is_row]
        return torch.from_numpy(found)


def _level_ratings(
    edges: Sequence[float], level: NDArray[np.int8], label: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The rating that each level stands for, standardised over the training rows.

    A label without a rating stands for the mean rating of its kind.

    Args:
        edges: Smallest rating of each level from 2 on.
        level: ``(n,)`` of the training rows.
        label: ``(n,)`` likewise.
    """
    rating = np.array([0.0, 1.0, *edges])
    if edges and len(level):
        for kind in (0, 1):
            same = level[label == kind]
            rating[kind] = rating[same].mean() if len(same) else rating[level].mean()
    if not len(level):
        return rating
    return (rating - rating[level].mean()) / max(float(rating[level].std()), 1e-6)
