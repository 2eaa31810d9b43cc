"""Figures of rankers for the same users, with paired intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from corellarec.base.bootstrap import Bootstrap, interval
from corellarec.base.list_metrics import coverage
from corellarec.base.metrics import Floats
from corellarec.data.ranking import RankingTask
from corellarec.evaluation.parts import Figure
from corellarec.evaluation.ranking.lists import Lists, measure
from corellarec.evaluation.ranking.results import RankerRow, UserGroup
from corellarec.evaluation.segments import equal_groups

FEW_USERS = 10  # a smaller group has no figures


@dataclass(frozen=True)
class Ranker:
    """A ranker's lists of a task.

    Args:
        kind, key, name, asked, settings: As in :class:`RankerRow`.
        lists: One for each user.
    """

    kind: str
    key: str
    name: str
    lists: Lists
    asked: float = 0.0
    settings: dict[str, float] = field(default_factory=dict)


class RankingFigures:
    """Measures rankers of one task on the same resamples of its users.

    Args:
        task: What was ranked.
        k: Places that count.
        resamples: Behind every 95 % interval.
        seed: Of the resamples.
    """

    def __init__(self, task: RankingTask, k: Sequence[int], resamples: int, seed: int) -> None:
        self.task, self.k = task, tuple(k)
        self.bootstrap = Bootstrap(np.arange(len(task.user)), resamples, seed)

    def of_users(self, lists: Lists) -> dict[str, Floats]:
        """``(users,)`` of each metric at each k, such as ``ndcg@10``."""
        return {
            f"{name}@{k}": value
            for k in self.k
            for name, value in measure(self.task, lists, k).items()
        }

    def rows(self, rankers: Sequence[Ranker], reference: str) -> tuple[RankerRow, ...]:
        """The table.

        Args:
            rankers: In its order.
            reference: Key of the one that the others are compared with.
        """
        found = {one.key: self.of_users(one.lists) for one in rankers}
        candidates = len(self.task.candidate)
        return tuple(
            RankerRow(
                kind=one.kind,
                key=one.key,
                name=one.name,
                asked=one.asked,
                settings=one.settings,
                metrics={n: self._figure(value) for n, value in found[one.key].items()},
                over_reference={
                    n: self._figure(value - found[reference][n])
                    for n, value in found[one.key].items()
                },
                coverage={k: coverage(one.lists.item, candidates, k) for k in self.k},
            )
            for one in rankers
        )

    def groups(self, rankers: Sequence[Ranker], reference: str) -> tuple[UserGroup, ...]:
        """NDCG at the first k of users known in training and others, and by length of history."""
        metric = f"ndcg@{self.k[0]}"
        found = {one.key: self.of_users(one.lists)[metric] for one in rankers}
        returning = self.task.returning
        ways = {
            "user": {"seen in training": returning, "cold": ~returning},
            "history length (rows)": equal_groups(self.task.history_length, 3),
        }
        return tuple(
            UserGroup(
                title,
                name,
                int(inside.sum()),
                {key: self._figure(value, inside) for key, value in found.items()},
                {key: self._figure(v - found[reference], inside) for key, v in found.items()},
            )
            for title, cut in ways.items()
            for name, inside in cut.items()
            if inside.sum() >= FEW_USERS
        )

    def _figure(self, value: Floats, inside: NDArray[np.bool_] | None = None) -> Figure:
        part, bootstrap = value, self.bootstrap
        if inside is not None:
            part, bootstrap = value[inside], bootstrap.of(inside)
        mean = float(part.mean())
        low, high = interval(bootstrap.mean(part)) if len(part) > 1 else (np.nan, np.nan)
        return Figure(mean, low, high, mean, mean)
