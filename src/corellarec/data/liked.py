"""How well each item is liked, as the log knew it at each row."""

import numpy as np
from numpy.typing import NDArray

from corellarec.data.statistics import ITEM_PRIOR, ordered_sums

LEVELS = 10


def liked_levels(
    item: NDArray[np.int32],
    time: NDArray[np.int64],
    train: NDArray[np.int64],
    label: NDArray[np.int8],
    items: int,
) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Levels 0 to 9, tenths of the training rows by how well their item is liked.

    That is the share of the item's training rows with label 1, drawn to the share of all by ten
    rows. A training row counts those before it alone, so that its own label is not in it.

    Args:
        item: ``(rows,)`` each row's item.
        time: ``(rows,)`` in any unit.
        train: ``(n,)`` numbers of the training rows ...
        label: ``(n,)`` ... and their labels.
        items: How many items there are.

    Returns:
        ``(rows,)`` as each row found its item, and ``(items,)`` after all training rows.

    Source: ordered target statistics, Prokhorenkova et al. 2018, https://arxiv.org/abs/1706.09516
    """
    if not len(train):
        return np.zeros(len(item), np.int8), np.zeros(items, np.int8)
    ordered = ordered_sums(item, time, train, label, items)
    mean = label.mean()

    def share(liked: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return (liked + ITEM_PRIOR * mean) / (rows + ITEM_PRIOR)

    of_items = share(ordered.item_sum, ordered.item_count)
    of_rows = share(ordered.row_sum, ordered.row_count)
    edges = np.quantile(of_items[item[train]], np.arange(1, LEVELS) / LEVELS)

    def level(share: NDArray[np.float64]) -> NDArray[np.int8]:
        return np.searchsorted(edges, share, side="right").astype(np.int8)

    return level(of_rows), level(of_items)
