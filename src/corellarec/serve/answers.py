"""Answers to candidates: the CRM for every row, the LLM where it pays and time allows."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from corellarec.base.metrics import Floats, sigmoid
from corellarec.serve.crm import Ask, CrmThread, Scored
from corellarec.serve.decisions import Decided
from corellarec.serve.histories import UserHistory, as_history
from corellarec.serve.intake import put
from corellarec.serve.llm import LlmAsk, LlmThread
from corellarec.serve.model import ServedModel
from corellarec.serve.pace import OverloadedError
from corellarec.serve.problems import ProblemError, retry_after
from corellarec.serve.schemas import (
    DEGRADED,
    CandidateAnswer,
    Explanation,
    NewItem,
    PastEvent,
    Reason,
    ScoreAnswer,
    ScoreRequest,
)
from corellarec.serve.service import InService, Service
from corellarec.serve.store import Event

MARGIN_S = 0.005  # for the answer to be written before its deadline


@dataclass(frozen=True)
class Answer:
    """Both models' answers for some rows.

    Args:
        scored: The CRM's.
        p: ``(n,)`` the cascade's.
        p_llm: ``(n,)`` the calibrated language model's, NaN where it did not answer.
        reasons: ``n`` reasons.
    """

    scored: Scored
    p: Floats
    p_llm: Floats
    reasons: list[Reason]

    def __getitem__(self, index: NDArray[np.int64]) -> "Answer":
        return Answer(
            self.scored[index],
            self.p[index],
            self.p_llm[index],
            [self.reasons[i] for i in index],
        )

    @property
    def degraded(self) -> bool:
        """Whether the language model or the store was wanted and not there."""
        return self.scored.user.stale or any(reason in DEGRADED for reason in self.reasons)


async def score(
    service: Service,
    body: ScoreRequest,
    request_id: str,
    received: float,
    *,
    may_add: bool = False,
) -> ScoreAnswer:
    """Answer candidates.

    Args:
        service: What answers.
        body: The request.
        request_id: Of the answer.
        received: When it came, of the monotonic clock, seconds.
        may_add: Whether the caller may add items.

    Raises:
        ProblemError: If it cannot be answered, or not in time.
    """
    limits = service.config.answer
    if len(body.candidates) > limits.max_candidates:
        raise ProblemError(
            422, f"candidates: at most {limits.max_candidates}, found {len(body.candidates)}"
        )
    deadline = deadline_of(service, received, body.deadline_ms, limits.deadline_ms)
    with in_time(service, deadline):
        return await _score(service, body, request_id, deadline, may_add=may_add)


async def _score(
    service: Service, body: ScoreRequest, request_id: str, deadline: float, *, may_add: bool
) -> ScoreAnswer:
    new = [one for one in body.candidates if isinstance(one, NewItem)]
    if any(one.id not in service.now.model.items for one in new):
        await _add_in_time(service, new, deadline, may_add=may_add)
    now = service.now
    ids = [one.id if isinstance(one, NewItem) else one for one in body.candidates]
    items = numbers_of(now.model, ids, "candidates")
    history = inline_history(service, now.model, body.user, body.history)
    scored = await ask_crm(service, service.crm, now.model, body.user, items, deadline, history)
    asked = Asked(request_id, body.user, history is None, ids, deadline)
    found = await route(service, now, asked, scored, items)
    return write(service, now.model, ids, found, request_id, explained=body.explain)


@contextmanager
def in_time(service: Service, deadline: float) -> Iterator[None]:
    """A request that is answered before its deadline, or told at once that it cannot be.

    Raises:
        ProblemError: If it cannot.
    """
    try:
        with service.pace.request(deadline):
            yield
    except (OverloadedError, TimeoutError) as error:
        wait = error.wait_s if isinstance(error, OverloadedError) else 1.0
        raise ProblemError(
            429, "more requests than can be answered in time: ask again later", retry_after(wait)
        ) from error


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
    thread.submit(ask)
    async with asyncio.timeout(ask.deadline - time.monotonic()):
        scored = await ask.future
    service.metrics.batch_rows.observe(thread.last_batch)
    return scored


@dataclass(frozen=True)
class Asked:
    """What a request asks.

    Args:
        request_id: Of the answer.
        user: Id.
        stored: Whether the history is the stored one.
        ids: Of the candidates.
        deadline: Of the monotonic clock.
    """

    request_id: str
    user: str
    stored: bool
    ids: Sequence[str]
    deadline: float


async def route(
    service: Service, now: InService, asked: Asked, scored: Scored, items: NDArray[np.int64]
) -> Answer:
    """Ask the language model about the rows that are worth it, if it answers in time.

    Args:
        service: Whose budget is spent.
        now: What answers this request.
        asked: The request.
        scored: The CRM's answer.
        items: ``(n,)`` item numbers.
    """
    router, llm, count, begun = now.model.router, now.llm, len(items), time.monotonic()
    helps = router.rule.verdict.helps
    p, p_llm = scored.p_crm.copy(), np.full(count, np.nan)
    wanted = scored.above
    log = service.decisions if llm and helps else None
    if log:
        wanted = wanted ^ log.explored(asked.request_id, asked.user, asked.ids)
    rows = np.flatnonzero(wanted)
    rows = rows[np.argsort(-scored.value[rows], kind="stable")]
    credit = service.bucket.level
    granted = service.bucket.take(count, len(rows) if llm else 0)
    reasons: list[Reason] = [
        "llm_off" if llm is None else "below_threshold" if helps else "verdict"
    ] * count
    for row in np.flatnonzero(scored.above & ~wanted):
        reasons[row] = "explored"
    for row in rows[granted:] if llm else ():
        reasons[row] = "budget"
    chosen = rows[:granted]
    if llm is not None and len(chosen):
        key = asked.user if asked.stored else None
        limit = asked.deadline - MARGIN_S
        outcome, logits = await _ask_llm(
            service, llm, LlmAsk(now.model, key, scored.user, items[chosen], limit)
        )
        service.metrics.llm_calls.labels(outcome).inc()
        if logits is not None:
            p[chosen] = router.answer(scored.known[chosen], logits)
            p_llm[chosen] = sigmoid(router.llm(logits))
        for row in chosen:
            reasons[row] = outcome
    if log:
        log.add(
            Decided(
                asked.request_id,
                datetime.now(UTC),
                asked.user,
                now.model.version,
                asked.ids,
                scored.p_crm,
                scored.value,
                p,
                p_llm,
                wanted,
                scored.above,
                router.rule.threshold,
                credit,
                granted == len(rows),
                reasons,
                1000 * (time.monotonic() - begun),
            )
        )
    return Answer(scored, p, p_llm, reasons)


def write(
    service: Service,
    model: ServedModel,
    ids: Sequence[str],
    found: Answer,
    request_id: str,
    *,
    explained: bool,
) -> ScoreAnswer:
    """Rows as the body of an answer."""
    answer = "llm" if model.router.combine == "replace" else "blend"
    threshold, known = model.router.rule.threshold, found.scored.known
    candidates = []
    for row, (item, reason) in enumerate(zip(ids, found.reasons, strict=True)):
        source = answer if reason == "asked" else "crm"
        service.metrics.rows.labels(source, reason).inc()
        explanation = None
        if explained:
            explanation = Explanation.model_construct(
                value=float(found.scored.value[row]),
                threshold=threshold,
                history_rows=int(known.history_length[row]),
                item_rows=int(known.item_count[row]),
            )
        candidates.append(
            CandidateAnswer.model_construct(
                item=item,
                p=float(found.p[row]),
                p_crm=float(found.scored.p_crm[row]),
                p_llm=float(found.p_llm[row]) if reason == "asked" else None,
                source=source,
                reason=reason,
                explanation=explanation,
            )
        )
    return ScoreAnswer.model_construct(
        candidates=candidates,
        degraded=found.degraded,
        model=model.version,
        request_id=request_id,
    )


async def _add_in_time(
    service: Service, items: Sequence[NewItem], deadline: float, *, may_add: bool
) -> None:
    if not may_add:
        raise ProblemError(403, "new items in a request need a key with the scope 'events'")
    adding = [
        asyncio.ensure_future(put(service, "item", one.id, {**one.attributes, "title": one.title}))
        for one in items
    ]
    _, late = await asyncio.wait(adding, timeout=max(0.0, deadline - MARGIN_S - time.monotonic()))
    if late:
        raise ProblemError(503, "the new items are being added: ask again", retry_after(1.0))
    for one in adding:
        one.result()  # raises what it raised


async def _ask_llm(service: Service, llm: LlmThread, ask: LlmAsk) -> tuple[Reason, Floats | None]:
    """How asking ended, and the logits if they came in time."""
    refusal = llm.submit(ask)
    if refusal is not None:
        service.bucket.give_back(len(ask.items))
        return refusal, None
    with service.pace.waiting():
        await asyncio.wait([ask.future], timeout=max(0.0, ask.deadline - time.monotonic()))
    if not ask.future.done():
        ask.future.cancel()
        return "late", None
    result = ask.future.result()
    if result is None:
        return "late", None
    if isinstance(result, Exception):
        return "llm_error", None
    return "asked", result
