"""Items like those that a user took, by cosine."""

import numpy as np
from scipy.sparse import csr_array

BLOCK = 2**24  # similarities in memory at once


def item_knn(positives: csr_array, neighbours: int, shrink: float) -> csr_array:
    """Similarities of each item and its nearest neighbours.

    Of items i and j with n(i) and n(j) users, n(i, j) of them common, it is
    ``n(i, j) / (sqrt(n(i) n(j)) + shrink)``, and 0 beyond the nearest ones of j, or if i is j. A
    user's score of item j is the sum over the items i that he took.

    Args:
        positives: ``(users, items)`` of 0 and 1.
        neighbours: How many of each item are kept, at least 1.
        shrink: Draws the similarities of items with few users towards 0.

    Returns:
        ``(items, items)``, a column for each target item.

    Source: as RecBole 1.2.1; Sarwar et al. 2001, https://doi.org/10.1145/371920.372071
    """
    columns = positives.tocsc()
    items = len(columns.indptr) - 1
    norm = np.sqrt(np.asarray(columns.sum(0)))
    most = min(neighbours, items)
    size = max(1, BLOCK // items)
    rows, targets, values = [], [], []
    for start in range(0, items, size):
        target = np.arange(start, min(start + size, items))
        common = (columns.T @ columns[:, target]).toarray()
        common[target, target - start] = 0.0
        like = common / (norm[:, None] * norm[None, target] + shrink + 1e-6)
        best = np.argpartition(-like, most - 1, axis=0)[:most]
        value = np.take_along_axis(like, best, 0)
        there = value > 0
        rows.append(best[there])
        targets.append(np.broadcast_to(target, best.shape)[there])
        values.append(value[there])
    place = (np.concatenate(rows), np.concatenate(targets))
    return csr_array((np.concatenate(values), place), shape=(items, items))
