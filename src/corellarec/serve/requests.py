"""What a request asks, in the numbers of the model that answers it."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corellarec.serve.crm import Ask, CrmThread, Scored
from corellarec.serve.histories import UserHistory, as_history
from corellarec.serve.model import ServedModel
from corellarec.serve.problems import ProblemError
from corellarec.serve.schemas import PastEvent
from corellarec.serve.service import Service
from corellarec.serve.store import Event

MARGIN_S = 0.008  # for the answer to be written before its deadline


@dataclass(frozen=True)
class Asked:
    """What a request asks.

    Args:
        request_id: Of the answer.
        user: Id.
        stored: Whether the history is the stored one.
        ids: Of the candidates.
        deadline: Of the monotonic clock.
        anyway: Whether the router's threshold does not count; such a request is no part of the
            log of decisions, whose chances are known.
    """

    request_id: str
    user: str
    stored: bool
    ids: Sequence[str]
    deadline: float
    anyway: bool = False


def deadline_of(service: Service, received: float, asked_ms: int | None, default_ms: int) -> float:
    """When a request must be answered, of the monotonic clock.

    Raises:
        ProblemError: If it asks for more time than there is.
    """
    most = service.config.answer.max_deadline_ms
    if asked_ms is not None and asked_ms > most:
        raise ProblemError(422, f"deadline_ms: at most {most}, found {asked_ms}")
    return received + (asked_ms or default_ms) / 1000


def numbers_of(model: ServedModel, ids: Sequence[str], place: str) -> NDArray[np.int64]:
    """Numbers of items.

    Raises:
        ProblemError: If one is not known.
    """
    numbers = [model.items.get(one, -1) for one in ids]
    if -1 in numbers:
        unknown = ids[numbers.index(-1)]
        raise ProblemError(
            422,
            f"{place}: item {unknown!r} is not known: give it with its title first "
            '(PUT /v1/items/ID, or as {"id": ..., "title": ...})',
        )
    return np.array(numbers, np.int64)


def inline_history(
    service: Service, model: ServedModel, user: str, rows: Sequence[PastEvent] | None
) -> UserHistory | None:
    """The history that a request brings, if it brings one.

    Raises:
        ProblemError: If it is too long, an item is not known, or some rows have no time.
    """
    if rows is None:
        return None
    if len(rows) > service.config.answer.max_history:
        raise ProblemError(422, f"history: at most {service.config.answer.max_history} rows")
    numbers_of(model, [row.item for row in rows], "history")
    timed = [row for row in rows if row.time is not None]
    if timed and len(timed) < len(rows):
        raise ProblemError(422, "history: give all rows a time, or none")
    events = [
        Event(
            "",
            user,
            row.item,
            place if row.time is None else int(row.time.timestamp() * 1_000_000),
            row.label,
            row.rating,
        )
        for place, row in enumerate(rows)
    ]
    events.sort(key=lambda event: event.time)
    history = as_history(model, events)
    seen = history.item
    if model.log.history == "positives":
        history = history[history.label == 1]
    return UserHistory(model.users.get(user, -1), history, seen)


async def ask_crm(
    service: Service,
    thread: CrmThread,
    model: ServedModel,
    user: str,
    items: NDArray[np.int64],
    deadline: float,
    history: UserHistory | None,
) -> Scored:
    """The CRM's answer.

    Raises:
        OverloadedError: If it would come too late.
        TimeoutError: If it does.
    """
    ask = Ask(model, user, items, deadline - MARGIN_S, history)
    with service.tracing.span("crm", {"rows": len(items)}):
        thread.submit(ask)
        async with asyncio.timeout(ask.deadline - time.monotonic()):
            scored = await ask.future
    service.metrics.batch_rows.observe(thread.last_batch)
    return scored
