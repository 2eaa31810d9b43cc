"""The explorer's pages: rendered here, filled in by htmx, without a script of their own."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2
import numpy as np
from fastapi.responses import HTMLResponse
from numpy.typing import NDArray

from corellarec.base.metrics import sigmoid
from corellarec.cascade.policy import Known
from corellarec.serve.answers import Answer, route
from corellarec.serve.crm import Scored
from corellarec.serve.explore import look
from corellarec.serve.histories import UserHistory
from corellarec.serve.lineup import InService
from corellarec.serve.llm import LlmAsk
from corellarec.serve.problems import ProblemError
from corellarec.serve.requests import Asked, ask_crm
from corellarec.serve.service import Service

TOP = 20
PATIENCE_S = 20.0  # a person waits for the language model
GLOSSARY = {
    "CRM": "The conventional recommender model: fast, and asked about every row.",
    "LLM": "The language model, which reads the titles of the history: slow, asked about few rows.",
    "value": "Log loss, in nats, that asking the LLM is expected to save on this row.",
}
REASONS = {
    "asked": "both models: the value is above the threshold",
    "below_threshold": "the CRM: asking is expected to bring too little",
    "explored": "the CRM: chance decided against asking, for the log of decisions",
    "verdict": "the CRM: on validation the LLM did not help",
    "budget": "the CRM: the budget is spent",
    "late": "the CRM: the LLM would have been late",
    "breaker": "the CRM: the LLM is left alone after failures",
    "queue_full": "the CRM: too much waits for the LLM",
    "llm_error": "the CRM: the LLM failed",
    "llm_not_ready": "the CRM: the LLM is not loaded",
    "llm_off": "the CRM: the LLM is off",
    "not yet": "the CRM so far",
}


@dataclass(frozen=True)
class Row:
    """A candidate on a page."""

    item: str
    title: str
    p: float
    p_crm: float
    p_llm: float | None
    value: float
    words: str


@dataclass(frozen=True)
class Page:
    """What a page about a user is asked for.

    Args:
        user: Id.
        drop: Places of the history that are left out.
        flip: Places whose answer is turned round.
        words: Of titles; without any, the best candidates.
        sort: Of the candidates.
    """

    user: str
    drop: Sequence[int] = ()
    flip: Sequence[int] = ()
    words: str = ""
    sort: str = "answer"

    @property
    def edits(self) -> str:
        """The changed parts of a query, from ``&``."""
        pairs = [("drop", place) for place in self.drop] + [("flip", p) for p in self.flip]
        return "&" + urlencode(pairs) if pairs else ""

    @property
    def query(self) -> str:
        """The whole query."""
        pairs = {"id": self.user, "words": self.words, "sort": self.sort}
        return urlencode(pairs) + self.edits


class Explorer:
    """Makes the pages of one service.

    Args:
        service: What is looked into.
        run: Directory of the run that is served, for its figures.
    """

    def __init__(self, service: Service, run: Path | None) -> None:
        self.service, self.run = service, run
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("corellarec.serve.explore"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
        )

    def render(self, name: str, **values: Any) -> HTMLResponse:  # noqa: ANN401
        """A template as an answer."""
        template = self._environment.get_template(f"{name}.html.j2")
        return HTMLResponse(template.render(glossary=GLOSSARY, **values))

    async def user(self, page: Page) -> HTMLResponse:
        """A user, the history, and the candidates as the CRM sees them."""
        now = self.service.lineup.of(page.user)
        whole, history = await self._history(now, page)
        model = now.model
        lines = await asyncio.to_thread(look.lines, model, model.reader(), history)
        found, items = await self._candidates(now, page, history, ask=False)
        number = history.number
        return self.render(
            "user",
            title=f"User {page.user}",
            page="users",
            user=page.user,
            known=number >= 0,
            facts=look.attributes(model.log.users, number) if number >= 0 else {},
            total=len(whole.history),
            edits=_edits(page),
            drop=page.drop,
            flip=page.flip,
            words=page.words,
            sort=page.sort,
            top=TOP,
            rows=self._rows(now, found, items),
            own_query=page.query,
            edit_query=page.edits,
            lines=lines,
            hits=sum(line.hit for line in lines),
        )

    async def candidates(self, page: Page) -> HTMLResponse:
        """The candidates with the language model's opinions, and those without the changes."""
        now = self.service.lineup.of(page.user)
        whole, history = await self._history(now, page)
        found, items = await self._candidates(now, page, history, ask=True)
        before: list[float] = []
        if page.edits:
            old, _ = await self._candidates(now, page, whole, ask=True, items=items)
            before = old.p.tolist()
        return self.render(
            "candidates",
            rows=self._rows(now, found, items),
            user=page.user,
            edit_query=page.edits,
            before=before,
        )

    async def why(self, page: Page, item: str) -> HTMLResponse:
        """Why one candidate has its answer."""
        now = self.service.lineup.of(page.user)
        model, number = now.model, self._item(now, item)
        _, history = await self._history(now, page)
        items = np.array([number])
        found, _ = await self._candidates(now, page, history, ask=True, items=items)
        reader = model.reader()
        influences = await asyncio.to_thread(look.influences, model, reader, history, number)
        layout = now.llm.layout if now.llm else None
        read = None
        if layout is not None:
            read = await asyncio.to_thread(look.what_is_read, model, layout, history, number)
        (row,) = self._rows(now, found, items)
        return self.render(
            "why",
            title=row.title or item,
            page="users",
            user=page.user,
            drop=page.drop,
            flip=page.flip,
            edit_query=page.edits,
            facts=look.attributes(model.log.items, number),
            item_rows=int(found.scored.known.item_count[0]),
            row=row,
            sentence=_sentence(now, found),
            can_ask=now.llm is not None and now.llm.ready,
            influences=influences,
            read=read,
        )

    async def ask(self, page: Page, item: str) -> HTMLResponse:
        """The language model's opinion of a candidate, whatever the router says."""
        now, begun = self.service.lineup.of(page.user), time.monotonic()
        router, number = now.model.router, self._item(now, item)
        _, history = await self._history(now, page)
        items = np.array([number])
        found, _ = await self._candidates(now, page, history, ask=False, items=items)
        reason, logit = "the LLM is off", None
        if now.llm:
            deadline = begun + PATIENCE_S
            ask = LlmAsk(now.model, None, history, items, deadline)
            refusal = now.llm.submit(ask)
            reason = REASONS[refusal or "late"]
            if refusal is None:
                await asyncio.wait([ask.future], timeout=PATIENCE_S)
                result = ask.future.result() if ask.future.done() else None
                if isinstance(result, Exception):
                    reason = REASONS["llm_error"]
                elif result is not None:
                    logit = result
        if logit is None:
            return self.render("asked", p_llm=None, reason=reason)
        return self.render(
            "asked",
            p_llm=float(sigmoid(router.llm(logit))[0]),
            p_crm=float(found.scored.p_crm[0]),
            p=float(router.answer(found.scored.known, logit)[0]),
            milliseconds=1000 * (time.monotonic() - begun),
        )

    # Parts of the above.

    async def _history(self, now: InService, page: Page) -> tuple[UserHistory, UserHistory]:
        """The history as it is, and with the page's changes."""
        whole = await asyncio.to_thread(self.service.histories.of, now.model, page.user)
        return whole, look.changed(whole, page.drop, page.flip)

    async def _candidates(
        self,
        now: InService,
        page: Page,
        history: UserHistory,
        *,
        ask: bool,
        items: NDArray[np.int64] | None = None,
    ) -> tuple[Answer, NDArray[np.int64]]:
        """The candidates of a page in their order, answered by the CRM or by both."""
        model, deadline = now.model, time.monotonic() + PATIENCE_S
        given = items is not None
        if items is None:
            items = look.matching(model, page.words)
            if not page.words.strip():
                every = np.arange(len(model.items))
                items = every[~np.isin(every, history.seen)]
        if not len(items):
            items = np.zeros(0, np.int64)
            return _nothing(history), items
        scored = await ask_crm(
            self.service, self.service.rankings, model, page.user, items, deadline, history
        )
        if not given:
            best = np.argsort(-scored.p_crm, kind="stable")[:TOP]
            items, scored = items[best], scored[best]
        if ask:
            ids = model.log.items["id"].gather(items).to_list()
            stored = not page.edits
            asked = Asked(secrets.token_hex(8), page.user, stored, ids, deadline)
            found = await route(self.service, now, asked, scored, items)
        else:
            nan = np.full(len(items), np.nan)
            found = Answer(scored, scored.p_crm, nan, ["llm_off"] * len(items))
        if given:
            return found, items
        order = np.argsort(-_keys(page.sort, found), kind="stable")
        return found[order], items[order]

    def _rows(self, now: InService, found: Answer, items: NDArray[np.int64]) -> list[Row]:
        log = now.model.log
        off = now.llm is None
        return [
            Row(
                log.items["id"][int(item)],
                log.titles[int(item)],
                float(found.p[place]),
                float(found.scored.p_crm[place]),
                None if np.isnan(found.p_llm[place]) else float(found.p_llm[place]),
                float(found.scored.value[place]),
                REASONS["not yet" if reason == "llm_off" and not off else reason],
            )
            for place, (item, reason) in enumerate(zip(items, found.reasons, strict=True))
        ]

    def _item(self, now: InService, item: str) -> int:
        if item not in now.model.items:
            raise ProblemError(404, f"item {item!r} is not known")
        return now.model.items[item]


def _edits(page: Page) -> str:
    parts = []
    if page.drop:
        parts.append(f"{len(set(page.drop))} rows of the history left out")
    if page.flip:
        parts.append(f"{len(set(page.flip))} turned round")
    return ", ".join(parts)


def _keys(sort: str, found: Answer) -> NDArray[np.float64]:
    """What candidates are sorted by, largest first."""
    if sort == "disagreement":
        apart = np.abs(found.p_llm - found.scored.p_crm)
        return np.where(np.isnan(apart), -1.0, apart)
    return found.scored.value if sort == "value" else found.p


def _sentence(now: InService, found: Answer) -> str:
    """The decision about one row, in words."""
    rule = now.model.router.rule
    value, reason = float(found.scored.value[0]), found.reasons[0]
    side = "above" if value > rule.threshold else "not above"
    return (
        f"Asking the LLM about this row is expected to save {value:+.4f} nats; the threshold is "
        f"{rule.threshold:+.4f}, so it is {side} it. Answered by {REASONS[reason]}."
    )


def _nothing(history: UserHistory) -> Answer:
    none = np.zeros(0)
    known = Known(none, none, none, none)
    return Answer(Scored(history, known, none, none, none.astype(bool)), none, none, [])
