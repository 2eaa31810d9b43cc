"""Histories that a log does not hold: those of a service, which go on after the log ended."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corellarec.data.log import Log, Samples


@dataclass(frozen=True)
class History:
    """What one user did, oldest first, the newest of it later perhaps than the log.

    Args:
        item: ``(n,)`` int32, numbers in the item table.
        label: ``(n,)`` int8, 0 or 1.
        level: ``(n,)`` int8, of :mod:`corellarec.data.levels`; the label where there is none.
        time: ``(n,)`` int64, microseconds since 1970.
        row: ``(n,)`` int64, the row of the log that each is, -1 where it is none.
    """

    item: NDArray[np.int32]
    label: NDArray[np.int8]
    level: NDArray[np.int8]
    time: NDArray[np.int64]
    row: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.item)

    def __getitem__(self, index: NDArray[Any] | slice) -> "History":
        return History(*(getattr(self, column.name)[index] for column in fields(self)))


NO_ONE = History(
    np.zeros(1, np.int32),
    np.zeros(1, np.int8),
    np.zeros(1, np.int8),
    np.zeros(1, np.int64),
    np.full(1, -1, np.int64),
)


def history_of(log: Log, user: int) -> History:
    """All history rows of a user of the log, by number; a view of its columns."""
    part = slice(int(log.user_begin[user]), int(log.user_begin[user + 1]))
    return History(
        log.history_item[part].numpy(),
        log.history_label[part].numpy(),
        log.history_level[part].numpy(),
        log.history_time[part].numpy(),
        log.history_rows[part].numpy(),
    )


def over(log: Log, histories: Sequence[History]) -> Log:
    """A log's users and items with other histories, one after another.

    What is scored over it are :class:`corellarec.data.log.Samples` whose ``begin`` and ``end``
    count in these, and whose ``row`` is -1. Nothing is read or sorted anew: a service makes one for
    each batch.
    """
    found = copy.copy(log)
    for name in ("liked_before", "statistics", "_rows_by_pair"):
        vars(found).pop(name, None)
    # What gathers finds at least one row, and no sample is one of them.
    histories = [*histories, NO_ONE]
    for column in fields(History):
        name = "history_rows" if column.name == "row" else f"history_{column.name}"
        parts = [getattr(one, column.name) for one in histories]
        setattr(found, name, torch.from_numpy(np.concatenate(parts)))
    found.history_user = torch.full_like(found.history_item, -2)
    if "statistics" in vars(log):
        vars(found)["statistics"] = log.statistics.over(found)
    return found


def candidates_over(
    log: Log,
    users: Sequence[int],
    histories: Sequence[History],
    items: Sequence[NDArray[np.int64]],
) -> tuple[Log, Samples]:
    """Candidates of several users, each after a history of its own.

    Args:
        log: Users and items.
        users: Numbers in the user table, -1 for one who is not in it.
        histories: Of each.
        items: Item numbers of the candidates of each.

    Returns:
        The log over these histories, and all candidates as samples, one user's after another's.
    """
    lengths = np.array([len(one) for one in histories], dtype=np.int64)
    counts = torch.tensor([len(one) for one in items])
    ends = torch.from_numpy(lengths.cumsum())
    samples = Samples(
        torch.tensor(users).repeat_interleave(counts),
        torch.from_numpy(np.concatenate(items)),
        (ends - torch.from_numpy(lengths)).repeat_interleave(counts),
        ends.repeat_interleave(counts),
        torch.full((int(counts.sum()),), -1),
    )
    return over(log, histories), samples
