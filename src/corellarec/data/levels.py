"""Ratings as small codes: what a history says of how much an item was liked."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_DISTINCT = 16  # ratings that get a code each
BUCKETS = 10  # of a log with more
PIECE = 1_000_000  # rows at once
FIRST = 2  # codes 0 and 1 are a label of 0 or 1 whose rating is not known


def rating_edges(rating: NDArray[np.floating]) -> list[float]:
    """The smallest rating of each level, ascending: every distinct rating, or ten quantiles.

    Args:
        rating: ``(n,)`` ratings of the training rows.

    Example:
        >>> rating_edges(np.array([4.0, 1.0, 4.0, 5.0]))
        [1.0, 4.0, 5.0]
    """
    distinct = np.unique(rating)
    if len(distinct) > MAX_DISTINCT:
        distinct = np.unique(np.quantile(rating, np.arange(BUCKETS) / BUCKETS))
    return distinct.astype(float).tolist()


def halving_threshold(rating: NDArray[np.floating]) -> tuple[float, float]:
    """The rating that about half of the rows reach, and the share that does.

    Example:
        >>> halving_threshold(np.array([1.0, 7.0, 8.0, 9.0]))
        (8.0, 0.5)
    """
    steps = np.unique(rating)
    shares = [float((rating >= step).mean()) for step in steps]
    found = range(min(1, len(steps) - 1), len(steps))  # all rows reach the lowest
    best = min(found, key=lambda place: abs(shares[place] - 0.5))
    return float(steps[best]), shares[best]


def usual_levels(
    level: NDArray[np.integer], label: NDArray[np.integer], ratings: int
) -> NDArray[np.int64]:
    """The level to read in the place of each: itself, or of a label alone its most frequent rating.

    Args:
        level: ``(n,)`` of the training rows.
        label: ``(n,)`` likewise.
        ratings: Number of ratings' levels; with none a label stays what it is.

    Returns ``(FIRST + ratings,)``.

    Example:
        >>> usual_levels(np.array([2, 3, 4, 4, 3]), np.array([0, 0, 1, 1, 0]), 3).tolist()
        [3, 4, 2, 3, 4]
    """
    usual = np.arange(FIRST + ratings)
    for kind in (0, 1):
        rated = level[(label == kind) & (level >= FIRST)]
        if len(rated):
            usual[kind] = np.bincount(rated).argmax()
    return usual


def negative_ratings(level: NDArray[np.integer], label: NDArray[np.integer]) -> int | None:
    """How many of the lowest ratings mean label 0; None where a rating does not tell the label.

    Args:
        level: ``(n,)`` of the training rows.
        label: ``(n,)`` likewise.

    Example:
        >>> negative_ratings(np.array([2, 3, 4, 4, 3]), np.array([0, 0, 1, 1, 0]))
        2
    """
    liked, disliked = (level[(label == kind) & (level >= FIRST)] for kind in (1, 0))
    if not len(liked) or not len(disliked) or disliked.max() >= liked.min():
        return None
    return int(disliked.max()) + 1 - FIRST


def rating_levels(rating: NDArray[np.floating], edges: Sequence[float]) -> NDArray[np.int8]:
    """``(n,)`` levels, from 2: that of the largest edge at or below each rating.

    Example:
        >>> rating_levels(np.array([5.0, 3.5, 0.5]), (1.0, 4.0, 5.0)).tolist()
        [4, 2, 2]
    """
    levels = np.empty(len(rating), np.int8)
    for start in range(0, len(rating), PIECE):  # places take eight bytes each
        piece = slice(start, start + PIECE)
        place = np.searchsorted(np.asarray(edges), rating[piece], side="right") - 1
        levels[piece] = place.clip(min=0) + FIRST
    return levels
