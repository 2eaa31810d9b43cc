"""The explorer's pages: rendered here, filled in by htmx, without a script of their own."""

import asyncio
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from fastapi.responses import HTMLResponse
from numpy.typing import NDArray

from corellarec.serve.answers import Answer
from corellarec.serve.explore import charts, look, words
from corellarec.serve.explore.decision import decision, evaluation_of
from corellarec.serve.explore.edits import Page, changed, tables
from corellarec.serve.explore.opinions import PATIENCE_S, Asking, Opinions
from corellarec.serve.explore.validation import Spread, Validation
from corellarec.serve.histories import UserHistory
from corellarec.serve.lineup import InService
from corellarec.serve.model import ServedModel
from corellarec.serve.problems import ProblemError
from corellarec.serve.requests import ask_crm
from corellarec.serve.service import Service, secret_key

TOP = 20
TOKENS = 20  # of a row, where no run says how many
GLOSSARY = {
    "CRM": "The conventional recommender model: fast, and asked about every row.",
    "LLM": "The language model, which reads the titles of the history: slow, asked about few rows.",
    "answer": "The probability that the user likes the item, as the service would answer it: the "
    "CRM's, or a blend with the LLM's whose weights were fitted on validation rows. The blend also "
    "looks at the history's length and the item's popularity, and can lie outside both.",
    "value": "Log loss, in nats, that asking the LLM is expected to save on this row.",
    "threshold": "Rows of a larger value are sent to the LLM; it was chosen on validation rows.",
    "validation": "Rows after the training rows in time, on which the router was fitted.",
    "budget": "The share of all rows that the LLM may answer.",
    "log loss": "How far probabilities are from what happened, in nats; smaller is better.",
    "AUC": "The chance that a liked item has a larger probability than one that is not liked.",
    "drift": "Population stability index: how far rows lately differ from the first ones.",
}
REASONS = {
    "asked": "both models: asking is worth it",
    "below_threshold": "the CRM: asking is not worth it",
    "verdict": "the CRM: on validation the LLM did not help",
    "budget": "the CRM: the explorer has asked enough for this minute",
    "late": "the CRM: the LLM did not answer in time",
    "breaker": "the CRM: the LLM is left alone after failures",
    "queue_full": "the CRM: too much waits for the LLM",
    "llm_error": "the CRM: the LLM failed",
    "llm_not_ready": "the CRM: the LLM is not loaded",
    "llm_off": "the CRM: the LLM is off",
    "anyway": "both models: you asked",
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
    above: bool
    words: str


@dataclass(frozen=True)
class Look:
    """A page's user in one cascade, with the page's changes.

    Args:
        now: The cascade, with the page's titles.
        whole: The history as it is.
        history: With the changes.
        named: Numbers of the items that the page names.
    """

    now: InService
    whole: UserHistory
    history: UserHistory
    named: dict[str, int]

    @property
    def model(self) -> ServedModel:
        """The cascade's model."""
        return self.now.model


class Explorer:
    """Makes the pages of one service.

    Args:
        service: What is looked into.
        run: Directory of the run that is served, for its figures and validation rows.
    """

    def __init__(self, service: Service, run: Path | None) -> None:
        self.service, self.run = service, run
        settings, model = service.config.explorer, service.now.model
        self.opinions = Opinions(settings.rows_per_min)
        self.names = words.Names(
            model.users, secret_key(service.store) if settings.pseudonyms else None
        )
        self._validation: tuple[str, Validation | None] | None = None
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("corellarec.serve.explore"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
        )
        self._environment.filters |= {
            "number": words.number, "signed": words.signed, "percent": words.percent,
        }  # fmt: skip

    def render(self, name: str, **values: Any) -> HTMLResponse:  # noqa: ANN401
        """A template as an answer."""
        template = self._environment.get_template(f"{name}.html.j2")
        return HTMLResponse(template.render(glossary=GLOSSARY, bar=self._bar, **values))

    async def validation(self) -> Validation | None:
        """The run's validation rows, as the live cascade answers them; read once for each."""
        model = self.service.now.model
        if self._validation is None or self._validation[0] != model.version:
            found = await asyncio.to_thread(Validation.of_run, self.run, model)
            self._validation = model.version, found
        return self._validation[1]

    async def user(self, page: Page) -> HTMLResponse:
        """A user, the history, and the candidates as the CRM sees them."""
        seen = await self._look(page, self.service.lineup.of(page.user))
        model, number = seen.model, seen.history.number
        lines = await asyncio.to_thread(look.lines, model, model.reader(), seen.history)
        asking = await self._candidates(page, seen)
        found = _by_the_crm(asking)
        return self.render(
            "user",
            title=f"User {page.name}",
            page="users",
            of=page,
            known=number >= 0,
            facts=look.attributes(model.log.users, number) if number >= 0 else {},
            total=len(seen.whole.history),
            top=TOP,
            rows=self._rows(asking, found, "not yet" if seen.now.llm else "llm_off"),
            threshold=model.router.rule.threshold,
            lines=lines,
            newest=look.SHOWN,
            has_llm=seen.now.llm is not None,
            beside=[role for role, _ in self.others()],
        )

    async def candidates(self, page: Page, *, anyway: bool = False) -> HTMLResponse:
        """The candidates with the language model's opinions, and those without the changes.

        Args:
            page: What is asked for.
            anyway: Whether the language model is asked about all of them.
        """
        seen = await self._look(page, self.service.lineup.of(page.user))
        asking = await self._candidates(page, seen)
        ask = self.opinions.asked_anyway if anyway else self.opinions.decided
        found = await ask(asking)
        before: dict[str, Row] = {}
        if page.edits and not anyway:
            before = await self._unchanged(page, asking)
        order = np.argsort(-_keys(page.sort, found), kind="stable")
        rows = self._rows(asking, found, "anyway" if anyway else None)
        return self.render(
            "candidates",
            rows=[rows[place] for place in order],
            of=page,
            threshold=seen.model.router.rule.threshold,
            before=before,
        )

    async def history(self, page: Page) -> HTMLResponse:
        """The history with both models' opinions before each row."""
        seen = await self._look(page, self.service.lineup.of(page.user))
        model = seen.model
        reason, p_llm = await self.opinions.of_history(seen.now, seen.history, look.SHOWN)
        lines = await asyncio.to_thread(look.lines, model, model.reader(), seen.history, p_llm)
        said = "" if p_llm is not None else REASONS[reason].partition(": ")[2]
        return self.render("history", of=page, lines=lines, said=said, newest=look.SHOWN)

    async def why(self, page: Page, item: str) -> HTMLResponse:
        """Why one candidate has its answer."""
        seen = await self._look(page, self.service.lineup.of(page.user))
        now, model, history = seen.now, seen.model, seen.history
        number = _item(model, item)
        asking = await self._scored(page, seen, np.array([number]))
        found = await self.opinions.decided(asking)
        reader = model.reader()
        read = None
        if now.llm is not None:
            read = await asyncio.to_thread(look.what_is_read, model, now.llm, history, number)
        (row,) = self._rows(asking, found)
        return self.render(
            "why",
            title=row.title or item,
            page="users",
            of=page,
            facts=look.attributes(model.log.items, number),
            item_rows=int(found.scored.known.item_count[0]),
            row=row,
            history_rows=int(found.scored.known.history_length[0]),
            liked_share=float(found.scored.known.liked_share[0]),
            before=await self._unchanged(page, asking) if page.edits else {},
            threshold=model.router.rule.threshold,
            can_ask=now.llm is not None and now.llm.ready,
            rows=await asyncio.to_thread(look.influences, model, reader, history, number),
            features=await asyncio.to_thread(look.features, model, history, number),
            spread=self._spread("crm" if row.p_llm is None else "both", row.p),
            read=read,
        )

    async def ask(self, page: Page, item: str) -> HTMLResponse:
        """The language model's opinion of a candidate, whatever the router says."""
        begun = time.monotonic()
        seen = await self._look(page, self.service.lineup.of(page.user))
        asking = await self._scored(page, seen, np.array([_item(seen.model, item)]))
        found = await self.opinions.asked_anyway(asking)
        (row,) = self._rows(asking, found)
        return self.render("asked", row=row, milliseconds=1000 * (time.monotonic() - begun))

    async def decision(
        self, budget: int | None, rows: int, price: float, tokens: float | None
    ) -> dict[str, Any]:
        """What a budget brings and costs: values of the templates of the decision page."""
        validation, bucket = await self.validation(), self.service.bucket
        now = round(
            100 * (self.service.now.model.router.budget if bucket.rows_per_s else bucket.share)
        )
        budget = now if budget is None else budget
        if tokens is None:
            figures = evaluation_of(self.run)
            costs = figures.costs if figures else None
            tokens = round(costs.llm_tokens) if costs else TOKENS
        values: dict[str, Any] = {"count": 0}
        if validation is not None:
            values = await asyncio.to_thread(
                decision, validation, budget / 100, rows, price, tokens
            )
        asked = {"budget": budget, "rows": rows, "price": price, "tokens": tokens, "now": now}
        return values | asked | {"figures": evaluation_of(self.run) is not None, "run": self.run}

    def others(self) -> list[tuple[str, InService]]:
        """Cascades that are loaded beside the live one."""
        lineup = self.service.lineup
        beside = "share of the users" if lineup.share else "shadow"
        pairs = [(beside, lineup.beside), ("previous", lineup.previous)]
        return [(role, one) for role, one in pairs if one is not None]

    async def compare(self, page: Page, role: str) -> HTMLResponse:
        """Two cascades' answers to the same candidates of one user."""
        other = dict(self.others()).get(role)
        if other is None:
            raise ProblemError(404, f"no cascade is loaded as {role!r}")
        live = self.service.lineup.live
        sides = [await self._look(page, one) for one in (live, other)]
        ids: list[str] = []
        for seen in sides:  # what either of them would show first
            asking = await self._candidates(page, seen)
            ids += seen.model.log.items["id"].gather(asking.items).to_list()
        both = [one for one in dict.fromkeys(ids) if all(one in x.model.items for x in sides)]
        answers = []
        for seen in sides:
            items = np.array([seen.model.items[one] for one in both], np.int64)
            asking = await self._scored(page, seen, items)
            answers.append(self._rows(asking, await self.opinions.decided(asking)))
        pairs = sorted(zip(*answers, strict=True), key=lambda pair: -abs(pair[1].p - pair[0].p))
        return self.render(
            "compare",
            title=f"User {page.name}, two cascades",
            page="users",
            of=page,
            role=role,
            same=sides[0].model.version == sides[1].model.version,
            versions=[seen.model.version for seen in sides],
            crms=[seen.model.recipe.crm.model for seen in sides],
            pairs=pairs,
            left_out=len(dict.fromkeys(ids)) - len(both),
        )

    # Parts of the above.

    def _bar(self, p: float, kind: str, name: str, like: str | None = None) -> str:
        """A bar of a kind; how sure it is comes from validation's probabilities ``like`` it."""
        return charts.bar(p, kind, name, self._spread(like or kind, p))

    def _spread(self, kind: str, p: float) -> Spread | None:
        validation = self._validation[1] if self._validation else None
        return validation.spread(kind, p) if validation else None

    async def _look(self, page: Page, now: InService) -> Look:
        await self.validation()
        whole = await asyncio.to_thread(self.service.histories.of, now.model, page.user)
        model, named = await asyncio.to_thread(tables, now.model, page)
        history = changed(model, whole, page, named) if page.changes else whole
        return Look(replace(now, model=model), whole, history, named)

    async def _candidates(self, page: Page, seen: Look) -> Asking:
        """A page's candidates in their order, as the CRM answers them."""
        model, history = seen.model, seen.history
        added = np.array([seen.named[title] for title in page.new], np.int64)
        items = look.matching(model, page.words)
        if not page.words.strip():
            items = np.setdiff1d(np.arange(len(model.items)), history.seen)
        added = np.unique(added)
        items = np.concatenate([added, items[~np.isin(items, added)]])
        asking = await self._scored(page, seen, items)
        wanted = asking.scored.value if page.sort == "value" else asking.scored.p_crm
        others = len(added) + np.argsort(-wanted[len(added) :], kind="stable")[:TOP]
        shown = np.concatenate([np.arange(len(added)), others])
        order = shown[np.argsort(-wanted[shown], kind="stable")]
        return replace(asking, items=items[order], scored=asking.scored[order])

    async def _scored(self, page: Page, seen: Look, items: NDArray[np.int64]) -> Asking:
        """Candidates as the CRM answers them."""
        scored = await ask_crm(
            self.service, self.service.rankings, seen.model, page.user, items,
            time.monotonic() + PATIENCE_S, seen.history,
        )  # fmt: skip
        key = None if page.changes else page.user
        return Asking(seen.now, key, seen.history, items, scored)

    async def _unchanged(self, page: Page, asking: Asking) -> dict[str, Row]:
        """The answers without a page's changes, of the items that there are then."""
        plain = Page(page.user, page.name)
        seen = await self._look(plain, self.service.lineup.of(page.user))
        items = asking.items[asking.items < len(seen.model.items)]
        old = await self._scored(plain, seen, items)
        return {row.item: row for row in self._rows(old, await self.opinions.decided(old))}

    def _rows(self, asking: Asking, found: Answer, reason: str | None = None) -> list[Row]:
        """Candidates for a template; ``reason`` stands for those of rows that were answered so."""
        log = asking.now.model.log
        return [
            Row(
                log.items["id"][int(item)],
                log.titles[int(item)],
                float(found.p[place]),
                float(found.scored.p_crm[place]),
                None if np.isnan(found.p_llm[place]) else float(found.p_llm[place]),
                float(found.scored.value[place]),
                bool(found.scored.above[place]),
                REASONS[reason if reason and said in ("asked", "llm_off") else said],
            )
            for place, (item, said) in enumerate(zip(asking.items, found.reasons, strict=True))
        ]


def _item(model: ServedModel, item: str) -> int:
    if item not in model.items:
        raise ProblemError(404, f"item {item!r} is not known")
    return model.items[item]


def _by_the_crm(asking: Asking) -> Answer:
    """The CRM's answer alone."""
    count = len(asking.items)
    nobody = np.full(count, np.nan)
    return Answer(asking.scored, asking.scored.p_crm, nobody, ["llm_off"] * count, nobody)


def _keys(sort: str, found: Answer) -> NDArray[np.float64]:
    """What candidates are sorted by, largest first."""
    if sort == "disagreement":
        apart = np.abs(found.p_llm - found.scored.p_crm)
        return np.where(np.isnan(apart), -1.0, apart)
    return found.scored.value if sort == "value" else found.p
