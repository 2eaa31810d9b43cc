"""Retrievers: scores of all items for users, from the rows of a log alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from corellarec.base.metrics import Floats
from corellarec.crm.retrievers.ease import ease
from corellarec.crm.retrievers.item_knn import item_knn
from corellarec.data.log import Log
from corellarec.data.ranking import positive_items, positive_rows

DAY = 86_400_000_000  # microseconds
RetrieverName = Literal["popularity", "recent", "item-knn", "ease"]
RETRIEVERS: dict[RetrieverName, str] = {
    "popularity": "popularity",
    "recent": "recent popularity",
    "item-knn": "item-kNN",
    "ease": "EASE",
}
GRIDS: dict[RetrieverName, list[dict[str, float]]] = {
    "popularity": [{}],
    "recent": [{"days": days} for days in (1, 3, 7, 14, 30, 60, 120, 240)],
    "item-knn": [
        {"neighbours": neighbours, "shrink": shrink}
        for neighbours in (20, 50, 100, 200, 400)
        for shrink in (0, 10, 50)
    ],
    "ease": [{"penalty": penalty} for penalty in (10, 30, 100, 300, 1000, 3000)],
}
"""Settings of each, among which validation chooses."""
MOST_EASE_ITEMS = 20_000  # 3 GB of weights, minutes


@dataclass(frozen=True)
class Retriever:
    """Something that scores all items for users.

    Args:
        name: Key of ``RETRIEVERS``.
        settings: What it was made with.
        scores: Maps ``(n,)`` user numbers to ``(n, items)`` scores, greater is better.
    """

    name: RetrieverName
    settings: dict[str, float]
    scores: Callable[[NDArray[np.int64]], Floats]


def retriever(name: RetrieverName, settings: dict[str, float], log: Log, now: int) -> Retriever:
    """Make a retriever of the positive rows of a log.

    Users without a positive row, of whom item-kNN and EASE know nothing, get what is popular.

    Args:
        name: Key of ``RETRIEVERS``.
        settings: One of its ``GRIDS``.
        log: Ends where the ranking begins.
        now: That moment, microseconds since 1970.
    """
    popular = positive_rows(log).astype(np.float64)
    if name == "popularity":
        return Retriever(name, settings, partial(_same, popular))
    if name == "recent":
        counts = positive_rows(log, now - int(settings["days"] * DAY))
        # What was not taken lately follows in the order of all times.
        recent = counts + popular / (popular.max() + 1)
        return Retriever(name, settings, partial(_same, recent))
    positives = positive_items(log)
    if name == "ease":
        weights = ease(positives, settings["penalty"])
    else:
        weights = item_knn(positives, int(settings["neighbours"]), settings["shrink"])
    return Retriever(name, settings, partial(_linear, positives, weights, popular))


def _same(scores: Floats, user: NDArray[np.int64]) -> Floats:
    return np.tile(scores, (len(user), 1))


def _linear(
    positives: csr_array, weights: csr_array | Floats, popular: Floats, user: NDArray[np.int64]
) -> Floats:
    taken = positives[user]
    scores = taken @ weights
    scores = scores.toarray() if isinstance(scores, csr_array) else np.asarray(scores)
    scores[np.diff(taken.indptr) == 0] = popular
    return scores
