"""Users' histories: the log's rows, and the store's events behind and between them."""

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from cachetools import LRUCache

from corellarec.data.histories import History, history_of
from corellarec.serve.model import ServedModel
from corellarec.serve.store import Event, Store, StoreError

RETRY_S = 1.0


@dataclass(frozen=True)
class UserHistory:
    """What a user did, as the service knows it now.

    Args:
        number: In the model's user table, -1 for one who is not in it.
        history: Oldest first, without rows that the model's histories leave out.
        seen: ``(n,)`` item numbers of all events, whatever their labels.
        stale: Whether the store could not be read.
    """

    number: int
    history: History
    seen: np.ndarray
    stale: bool = False


class Histories:
    """Histories of the users asked about last, read anew when something was added.

    The log of the model is read where it lies, and the store holds what came later: a model that
    was trained on later rows finds them in both, and counts them once.

    Args:
        store: Events.
        users_kept: Users in memory.
        max_rows: Newest rows of a user that are read.
    """

    def __init__(self, store: Store, users_kept: int, max_rows: int) -> None:
        self.store, self.max_rows = store, max_rows
        self._kept: LRUCache[str, dict[ServedModel, UserHistory]] = LRUCache(users_kept)
        self._lock, self._changes = threading.Lock(), 0
        self._away, self._ended = False, threading.Event()
        self._erased = store.erased()

    def of(self, model: ServedModel, user: str) -> UserHistory:
        """The history of a user; of the log alone where the store cannot be read."""
        with self._lock:
            kept = self._kept.get(user, {}).get(model)
            changes, erased = self._changes, self._erased.get(user)
        if kept is not None:
            return kept
        events, stale = self._events(user)
        found = build(model, user, events, erased, self.max_rows, stale=stale)
        with self._lock:
            if changes == self._changes and not stale:
                self._kept[user] = {**self._kept.get(user, {}), model: found}
        return found

    def _events(self, user: str) -> tuple[list[Event], bool]:
        """A user's events, and whether they could not be read."""
        if not self._away:
            try:
                return self.store.events_of(user, self.max_rows), False
            except StoreError:
                with self._lock:
                    first, self._away = not self._away, True
                if first:  # answers must not wait until a host that is gone is given up
                    threading.Thread(target=self._wait_for_store, daemon=True).start()
        return [], True

    def _wait_for_store(self) -> None:
        while self._away:
            if self._ended.wait(RETRY_S):
                return
            with contextlib.suppress(StoreError):
                self.store.events_of("", 1)
                self._away = False

    def changed(self, users: Sequence[str]) -> None:
        """Forget users to whom something was added in the store, which is there then."""
        with self._lock:
            self._changes, self._away = self._changes + 1, False
            for user in users:
                self._kept.pop(user, None)

    def erase(self, user: str, time: int) -> None:
        """Leave out what the log says of a user up to a time."""
        with self._lock:
            self._erased[user] = time
        self.changed([user])

    def close(self) -> None:
        """Wait for the store no longer."""
        self._ended.set()

    def clear(self) -> None:
        """Forget all users, whose model has gone."""
        with self._lock:
            self._changes += 1
            self._kept.clear()


def build(
    model: ServedModel,
    user: str,
    events: Sequence[Event],
    erased: int | None = None,
    max_rows: int = 1 << 40,
    *,
    stale: bool = False,
) -> UserHistory:
    """A user's history from the model's log and from events.

    Args:
        model: Whose items and levels count; events of items that it does not know are left out.
        user: Id.
        events: Any, oldest first.
        erased: Time up to which the log's rows are left out, or None.
        max_rows: Newest rows to keep.
        stale: Whether the events could not be read.
    """
    log, number = model.log, model.users.get(user, -1)
    base = history_of(log, max(number, 0))[: None if number >= 0 else 0]
    seen = log.items_of(number) if number >= 0 else np.zeros(0, np.int32)
    if erased is not None:
        base, seen = base[base.time > erased], base.item[base.time > erased]
        number = -1  # what the log says of the person is gone, too
    known = [event for event in events if event.item in model.items]
    if not known:
        return UserHistory(number, base[-max_rows:], seen, stale)
    later = as_history(model, known)
    seen = np.concatenate([seen, later.item])
    if log.history == "positives":
        later = later[later.label == 1]
    both = History(
        *(np.concatenate(pair) for pair in zip(vars(base).values(), vars(later).values(),
                                               strict=True))
    )  # fmt: skip
    order = np.lexsort((both.item, both.time))
    item, time = both.item[order], both.time[order]
    # The log's own row comes first of equal ones, and counts: it is the one that has a row number.
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (item[1:] != item[:-1]) | (time[1:] != time[:-1])
    return UserHistory(number, both[order[fresh]][-max_rows:], seen, stale)


def as_history(model: ServedModel, events: Sequence[Event]) -> History:
    """Events as rows, in their order; their items are known to the model."""
    labels = [
        int(event.rating >= model.recipe.positive_rating)
        if event.label is None and event.rating is not None
        else int(event.label or 0)
        for event in events
    ]
    levels = [model.level(label, event.rating) for label, event in zip(labels, events, strict=True)]
    return History(
        np.array([model.items[event.item] for event in events], np.int32),
        np.array(labels, np.int8),
        np.array(levels, np.int8),
        np.array([event.time for event in events], np.int64),
        np.full(len(events), -1, np.int64),
    )
