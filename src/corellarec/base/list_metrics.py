"""Metrics of ranked lists: one value for each user, so that intervals can resample users."""

import numpy as np
from numpy.typing import NDArray

from corellarec.base.metrics import Floats

LIST_METRICS = ("ndcg", "recall", "hit_rate", "mrr", "map", "novelty")
NOTHING = -1  # stands where a list has ended


def list_metrics(hit: NDArray[np.bool_], relevant: NDArray[np.int64], k: int) -> dict[str, Floats]:
    """What the first ``k`` places of each user's list are worth.

    With r the places that hold a relevant item, and n relevant items of the user, in the list or
    not:

        ``ndcg``      sum over r of 1 / log2(1 + r), divided by the same sum over 1 to min(k, n)
        ``recall``    hits, divided by n
        ``hit_rate``  1 if there is a hit, else 0
        ``mrr``       1 / (smallest r), 0 without a hit
        ``map``       sum over r of the precision of the first r places, divided by min(k, n)

    These are RecBole's formulas; ``ranx`` has the same but for ``map``, which it divides by n.

    Args:
        hit: ``(users, places)``, best first, whether an item is relevant. Fewer than ``k`` places
            are lists that ended.
        relevant: ``(users,)`` relevant items of each user, at least 1.
        k: Places that count, at least 1.

    Returns:
        ``(users,)`` for each name.

    Raises:
        ValueError: If ``k`` is below 1, or a user has no relevant item.

    Example:
        >>> found = list_metrics(np.array([[False, True, False]]), np.array([2]), k=3)
        >>> {name: round(float(value[0]), 4) for name, value in found.items()}
        {'ndcg': 0.3869, 'recall': 0.5, 'hit_rate': 1.0, 'mrr': 0.5, 'map': 0.25}
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, found {k}")
    if (relevant < 1).any():
        raise ValueError("every user needs a relevant item: leave out those who have none")
    first = hit[:, :k].astype(np.float64)
    place = np.arange(1, k + 1)
    discount = 1 / np.log2(1 + place)
    ideal, most = discount.cumsum(), np.minimum(relevant, k)
    hits, place = first.sum(1), place[: first.shape[1]]
    precision = first.cumsum(1) / place
    return {
        "ndcg": first @ discount[: len(place)] / ideal[most - 1],
        "recall": hits / relevant,
        "hit_rate": (hits > 0).astype(np.float64),
        "mrr": (first / place).max(1, initial=0.0),
        "map": (first * precision).sum(1) / most,
    }


def novelty(item: NDArray[np.int64], rows: NDArray[np.int64], k: int) -> Floats:
    """Mean self-information (bits) of the first ``k`` items of each user's list.

    That is ``-log2`` of the item's share of all positive rows, every item with one row more than it
    has: the bits are many where what is recommended is rare.

    Args:
        item: ``(users, places)`` numbers of items, -1 where a list has ended.
        rows: ``(items,)`` positive rows of each item.
        k: Places that count.

    Source: Zhou et al. 2010, https://arxiv.org/abs/0808.2670
    """
    bits = -np.log2((rows + 1) / (rows + 1).sum())
    first = item[:, :k]
    there = first != NOTHING
    return np.where(there, bits[first], 0.0).sum(1) / np.maximum(there.sum(1), 1)


def coverage(item: NDArray[np.int64], candidates: int, k: int) -> float:
    """Share of the candidates that are among the first ``k`` of at least one user's list.

    Args:
        item: ``(users, places)`` numbers of items, -1 where a list has ended.
        candidates: How many items could be recommended.
        k: Places that count.
    """
    found = np.unique(item[:, :k])
    return float((found != NOTHING).sum() / candidates)
