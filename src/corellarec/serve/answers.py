"""Answers to candidates: the CRM for every row, the LLM where it pays and time allows."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from corellarec.base.metrics import Floats, sigmoid
from corellarec.cascade.budget import Mask
from corellarec.cascade.ranking import HeadLists, places
from corellarec.cascade.router import Router
from corellarec.serve.asks import LlmAsk
from corellarec.serve.crm import OverloadedError, Scored
from corellarec.serve.decisions import LIST, Decided
from corellarec.serve.intake import put
from corellarec.serve.lineup import InService
from corellarec.serve.model import ServedModel
from corellarec.serve.problems import ProblemError, retry_after
from corellarec.serve.requests import (
    MARGIN_S,
    Asked,
    ask_crm,
    deadline_of,
    inline_history,
    numbers_of,
)
from corellarec.serve.schemas import (
    DEGRADED,
    CandidateAnswer,
    Explanation,
    NewItem,
    Reason,
    ScoreAnswer,
    ScoreRequest,
)
from corellarec.serve.service import Service
from corellarec.serve.shadow import compare


@dataclass(frozen=True)
class Answer:
    """Both models' answers for some rows.

    Args:
        scored: The CRM's.
        p: ``(n,)`` the cascade's.
        p_llm: ``(n,)`` the calibrated language model's, NaN where it did not answer.
        reasons: ``n`` reasons.
        llm_logit: ``(n,)`` the language model's raw logits, NaN where it did not answer.
    """

    scored: Scored
    p: Floats
    p_llm: Floats
    reasons: list[Reason]
    llm_logit: Floats

    def __getitem__(self, index: NDArray[np.int64]) -> "Answer":
        return Answer(
            self.scored[index],
            self.p[index],
            self.p_llm[index],
            [self.reasons[i] for i in index],
            self.llm_logit[index],
        )

    @property
    def degraded(self) -> bool:
        """Whether the language model or the store was wanted and not there."""
        return self.scored.user.stale or any(reason in DEGRADED for reason in self.reasons)


@dataclass(frozen=True)
class _Terms:
    """What decides which rows the language model is asked about.

    Args:
        above: ``(n,)`` whether the value of each, or of their list, is above the threshold.
        sent: ``(n,)`` whether each would be sent.
        value: ``(n,)`` of asking about each, or about their list.
        threshold: Of the value.
    """

    above: Mask
    sent: Mask
    value: Floats
    threshold: float


def _row_terms(router: Router, scored: Scored) -> _Terms:
    sent = np.ones(len(scored.value), dtype=bool)
    return _Terms(scored.above, sent, scored.value, router.rule.threshold)


def _list_terms(lists: HeadLists) -> _Terms:
    sent, threshold = lists.rows(np.ones(1, dtype=bool)), lists.policy.threshold
    above, value = np.repeat(lists.above, len(sent)), np.repeat(lists.value, len(sent))
    return _Terms(above, sent, value, -np.inf if threshold is None else threshold)


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
    with in_time():
        return await _score(service, body, request_id, deadline, may_add=may_add)


async def _score(
    service: Service, body: ScoreRequest, request_id: str, deadline: float, *, may_add: bool
) -> ScoreAnswer:
    new = [one for one in body.candidates if isinstance(one, NewItem)]
    if any(one.id not in service.lineup.of(body.user).model.items for one in new):
        await _add_in_time(service, new, deadline, may_add=may_add)
    now = service.lineup.of(body.user)
    ids = [one.id if isinstance(one, NewItem) else one for one in body.candidates]
    items = numbers_of(now.model, ids, "candidates")
    history = inline_history(service, now.model, body.user, body.history)
    scored = await ask_crm(service, service.crm, now.model, body.user, items, deadline, history)
    asked = Asked(request_id, body.user, history is None, ids, deadline, body.ask_anyway)
    found = await route(service, now, asked, scored, items)
    compare(service, asked, body.history, found.p)
    return write(service, now.model, ids, found, request_id, explained=body.explain)


@contextmanager
def in_time() -> Iterator[None]:
    """A request that is answered before its deadline, or told that it cannot be.

    Raises:
        ProblemError: If it cannot.
    """
    try:
        yield
    except (OverloadedError, TimeoutError) as error:
        wait = error.wait_s if isinstance(error, OverloadedError) else 1.0
        raise ProblemError(
            429, "more requests than can be answered in time: ask again later", retry_after(wait)
        ) from error


async def route(
    service: Service,
    now: InService,
    asked: Asked,
    scored: Scored,
    items: NDArray[np.int64],
    *,
    lists: HeadLists | None = None,
) -> Answer:
    """Ask the language model about the rows that are worth it, if it answers in time.

    Args:
        service: Whose budget is spent.
        now: What answers this request.
        asked: The request.
        scored: The CRM's answer.
        items: ``(n,)`` item numbers.
        lists: The rows as one list, to ask about all of its places or none.
    """
    router, llm, count, begun = now.model.router, now.llm, len(items), time.monotonic()
    helps = lists is not None or router.rule.verdict.helps
    p, llm_logit = scored.p_crm.copy(), np.full(count, np.nan)
    terms = _row_terms(router, scored) if lists is None else _list_terms(lists)
    wanted = terms.above | asked.anyway
    log = service.decisions if llm and helps and not asked.anyway else None
    if log:
        units = asked.ids if lists is None else [LIST] * count
        wanted = wanted ^ log.explored(asked.request_id, asked.user, units)
    rows = np.flatnonzero(wanted & terms.sent)
    rows = rows[np.argsort(-terms.value[rows], kind="stable")]
    credit = service.bucket.level
    granted = service.bucket.take(count, len(rows) if llm else 0)
    if lists is not None and granted < len(rows):
        service.bucket.give_back(granted)
        granted = 0
    reasons: list[Reason] = [
        "llm_off" if llm is None else "below_threshold" if helps else "verdict"
    ] * count
    for row in np.flatnonzero(terms.above & terms.sent & ~wanted):
        reasons[row] = "explored"
    for row in rows[granted:] if llm else ():
        reasons[row] = "budget"
    chosen = rows[:granted]
    if llm is not None and len(chosen):
        key = asked.user if asked.stored else None
        limit = asked.deadline - MARGIN_S
        ask = LlmAsk(
            now.model, key, scored.user, items[chosen], limit, unasked=service.bucket.give_back
        )
        with service.tracing.span("llm", {"rows": len(chosen)}) as span:
            outcome, logits = await llm.ask(ask)
            if span:
                span.set_attribute("outcome", outcome)
        service.metrics.llm_calls.labels(outcome).inc()
        if logits is not None:
            p[chosen] = router.answer(scored.known[chosen], logits)
            llm_logit[chosen] = logits
        for row in chosen:
            reasons[row] = outcome
    p_llm = sigmoid(router.llm(llm_logit))
    if log:
        log.add(
            Decided(
                request_id=asked.request_id,
                time=datetime.now(UTC),
                user=asked.user,
                model=now.model.version,
                items=asked.ids,
                p_crm=scored.p_crm,
                value=terms.value,
                p=p,
                p_llm=p_llm,
                asked=wanted,
                above=terms.above,
                threshold=terms.threshold,
                credit=credit,
                eligible=granted == len(rows),
                reasons=reasons,
                milliseconds=1000 * (time.monotonic() - begun),
                place=None if lists is None else places(lists.order(llm_logit)),
            )
        )
    return Answer(scored, p, p_llm, reasons, llm_logit)


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
    counts = Counter(found.reasons)
    service.recent.add(found.scored.p_crm, known, counts["asked"])
    for reason, rows in counts.items():
        source = answer if reason == "asked" else "crm"
        service.metrics.rows.labels(source, reason).inc(rows)
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
