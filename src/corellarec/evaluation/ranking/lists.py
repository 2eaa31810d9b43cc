"""Each user's best items by some scores, and what these lists are worth."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corellarec.base.list_metrics import NOTHING, list_metrics, novelty
from corellarec.base.metrics import Floats
from corellarec.data.ranking import RankingTask, positive_rows

CHUNK = 2**23  # scores in memory at once


@dataclass(frozen=True)
class Lists:
    """Each user's best items, in order.

    Args:
        item: ``(users, places)`` int64 numbers of items, best first; -1 where a list has ended.
        score: ``(users, places)`` their scores, ``-inf`` where a list has ended.
        hit: ``(users, places)`` bool, whether the item is relevant.
    """

    item: NDArray[np.int64]
    score: Floats
    hit: NDArray[np.bool_]

    def reordered(self, score: Floats, of: NDArray[np.bool_]) -> "Lists":
        """Some users' lists in the order of other scores, those of places beyond staying behind.

        Args:
            score: ``(users, places)``.
            of: ``(users,)`` whose lists.
        """
        place = np.argsort(-score, axis=1, kind="stable")
        place[~of] = np.arange(place.shape[1])
        return Lists(
            np.take_along_axis(self.item, place, 1),
            np.take_along_axis(self.score, place, 1),
            np.take_along_axis(self.hit, place, 1),
        )


def top_lists(
    task: RankingTask, scores: Callable[[NDArray[np.int64]], Floats], places: int
) -> Lists:
    """Rank the open candidates of every user; equal scores in the order of the item table.

    Args:
        task: What to rank.
        scores: Maps ``(n,)`` places of users in the task to ``(n, candidates)`` scores.
        places: Length of the lists; they end earlier where fewer candidates are open.
    """
    places = min(places, len(task.candidate))
    parts = []
    size = max(1, CHUNK // len(task.candidate))
    for start in range(0, len(task.user), size):
        rows = np.arange(start, min(start + size, len(task.user)))
        found = np.where(task.open[rows], scores(rows), -np.inf)
        best = np.argsort(-found, axis=1, kind="stable")[:, :places]
        score = np.take_along_axis(found, best, 1)
        hit = np.take_along_axis(task.relevant[rows], best, 1)
        item = np.where(np.isfinite(score), task.candidate[best], NOTHING)
        parts.append(Lists(item, score, hit))
    return Lists(
        np.concatenate([part.item for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.hit for part in parts]),
    )


def measure(task: RankingTask, lists: Lists, k: int) -> dict[str, Floats]:
    """``(users,)`` of each of ``LIST_METRICS``."""
    found = list_metrics(lists.hit, task.relevant_count, k)
    return found | {"novelty": novelty(lists.item, positive_rows(task.log), k)}
