"""How well each item is liked, as the log knew it at each row."""

import numpy as np
from numpy.typing import NDArray

PRIOR_ROWS = 10  # rows of the mean that every item starts with
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
    order = np.lexsort((time[train], item[train]))
    train, label = train[order], label[order]
    of = item[train]
    first = np.searchsorted(of, of)  # where the rows of each row's item begin
    liked = np.concatenate([[0], label.cumsum(dtype=np.int64)])
    mean = label.mean()

    def share(liked: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return (liked + PRIOR_ROWS * mean) / (rows + PRIOR_ROWS)

    rows = np.bincount(of, minlength=items)
    of_items = share(liked[rows.cumsum()] - liked[rows.cumsum() - rows], rows)
    of_rows = of_items[item]
    of_rows[train] = share(liked[:-1] - liked[first], np.arange(len(train)) - first)
    edges = np.quantile(of_items[of], np.arange(1, LEVELS) / LEVELS)

    def level(share: NDArray[np.float64]) -> NDArray[np.int8]:
        return np.searchsorted(edges, share, side="right").astype(np.int8)

    return level(of_rows), level(of_items)
