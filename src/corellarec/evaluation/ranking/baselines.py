"""Retrievers with the settings that rank the validation split best."""

from collections.abc import Callable

from corellarec.base.list_metrics import list_metrics
from corellarec.crm.retrievers.retriever import (
    GRIDS,
    MOST_EASE_ITEMS,
    RETRIEVERS,
    Retriever,
    RetrieverName,
    retriever,
)
from corellarec.data.ranking import RankingTask
from corellarec.evaluation.ranking.lists import Lists, top_lists


def usable(task: RankingTask) -> list[RetrieverName]:
    """The retrievers that a log of this size allows: EASE inverts a matrix of all items."""
    small = task.log.items.height <= MOST_EASE_ITEMS
    return [name for name in RETRIEVERS if name != "ease" or small]


def choose(
    validation: RankingTask,
    name: RetrieverName,
    k: int,
    tried: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """The settings of ``GRIDS`` with the highest NDCG at ``k`` on validation; ties: the first.

    Args:
        validation: Of the validation split.
        name: Key of ``RETRIEVERS``.
        k: Places that count.
        tried: Called after each setting.
    """
    if len(GRIDS[name]) == 1:
        return GRIDS[name][0]
    found = []
    for settings in GRIDS[name]:
        lists = ranked(validation, retriever(name, settings, validation.log, validation.cut), k)
        found.append(float(list_metrics(lists.hit, validation.relevant_count, k)["ndcg"].mean()))
        tried()
    return GRIDS[name][found.index(max(found))]


def ranked(task: RankingTask, by: Retriever, places: int) -> Lists:
    """A retriever's lists."""
    return top_lists(task, lambda rows: by.scores(task.user[rows])[:, task.candidate], places)
