"""The routes of the explorer."""

from importlib import resources
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Depends, Form, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse

from corellarec.cascade.router import explain
from corellarec.evaluation.look import shared_look
from corellarec.serve.explore import look
from corellarec.serve.explore.decision import figure
from corellarec.serve.explore.edits import Page
from corellarec.serve.explore.live import gain, live
from corellarec.serve.explore.views import REASONS, Explorer
from corellarec.serve.explore.words import LOCALE, locale_of, percent
from corellarec.serve.problems import ProblemError
from corellarec.serve.sessions import COOKIE, Sessions

Places = Annotated[list[int], Query(default_factory=list, max_length=100)]
Id = Annotated[str, Query(min_length=1, max_length=256)]
Title = Annotated[str, Query(max_length=240)]
Titles = Annotated[list[Title], Query(default_factory=list, max_length=20)]
Budget = Annotated[int, Query(ge=0, le=100)]
Sort = Literal["answer", "disagreement", "value"]
KINDS = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


def page_of(
    request: Request,
    id: Id,
    drop: Places,
    flip: Places,
    liked: Titles,
    disliked: Titles,
    new: Titles,
    renamed: Annotated[list[Id], Query(default_factory=list, max_length=20)],
    title: Titles,
    words: Annotated[str, Query(max_length=200)] = "",
    sort: Sort = "answer",
) -> Page:
    """What an address of a page about a user asks for."""
    if len(renamed) != len(title):
        raise ProblemError(422, "renamed and title go together, one for each")
    explorer: Explorer = request.app.state.explorer
    user = explorer.names.user(id.strip() or id)
    titles = {one: text for one, text in zip(renamed, title, strict=True) if text.strip()}
    return Page(
        user,
        explorer.names.shown(user),
        drop,
        flip,
        [text for text in liked if text.strip()],
        [text for text in disliked if text.strip()],
        [text for text in new if text.strip()],
        list(titles),
        list(titles.values()),
        words,
        sort,
    )


async def decision_of(
    request: Request,
    budget: Annotated[int | None, Query(ge=0, le=100)] = None,
    rows: Annotated[int, Query(ge=1, le=10**12)] = 1_000_000,
    price: Annotated[float, Query(ge=0, le=1e6)] = 0.1,
    tokens: Annotated[float | None, Query(ge=1, le=100_000)] = None,
) -> dict[str, Any]:
    """What an address of the decision page asks for."""
    explorer: Explorer = request.app.state.explorer
    return await explorer.decision(budget, rows, price, tokens)


Asked = Annotated[Page, Depends(page_of)]
Values = Annotated[dict[str, Any], Depends(decision_of)]


async def _speak(request: Request) -> None:
    LOCALE.set(locale_of(request.headers.get("accept-language", "")))


def add_pages(explorer: Explorer, sessions: Sessions) -> APIRouter:
    """The routes of the explorer.

    Args:
        explorer: What makes the pages; the application's state holds it, too.
        sessions: Of people.
    """
    router = APIRouter(include_in_schema=False, dependencies=[Depends(_speak)])
    _add_entrance(router, explorer, sessions)
    _add_users(router, explorer)
    _add_decision(router, explorer)
    _add_live(router, explorer)
    return router


def _add_entrance(router: APIRouter, explorer: Explorer, sessions: Sessions) -> None:
    chance = np.random.default_rng()

    async def segments() -> dict[str, Any]:
        model, validation = explorer.service.now.model, await explorer.validation()
        found = await run_in_threadpool(look.segments, model, validation)
        return {name: users for name, users in found.items() if len(users)}

    @router.get("/")
    async def home() -> HTMLResponse:
        return explorer.render(
            "home", title="Who should answer?", page="users",
            router=explain(explorer.service.now.model.router), segments=list(await segments()),
        )  # fmt: skip

    @router.get("/random")
    async def random_user(of: Id, sort: Sort = "answer") -> Response:
        users = (await segments()).get(of)
        if users is None:
            raise ProblemError(404, f"there is no segment {of!r}")
        user = explorer.service.now.model.log.users["id"][int(chance.choice(users))]
        page = urlencode({"id": explorer.names.shown(user), "sort": sort})
        return RedirectResponse("/user?" + page, 303)

    def entered(request: Request, token: str) -> Response:
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            COOKIE, token, httponly=True, samesite="strict",
            secure=request.url.scheme == "https",
        )  # fmt: skip
        return answer

    @router.get("/login")
    async def login_page(
        request: Request, word: Annotated[str, Query(max_length=200)] = ""
    ) -> Response:
        token = sessions.begin_once(word) if word else None
        return (
            entered(request, token)
            if token
            else explorer.render("login", wrong="word" if word else "")
        )

    @router.post("/login")
    async def login(
        request: Request, key: Annotated[str, Form(min_length=1, max_length=200)]
    ) -> Response:
        token = sessions.begin(key)
        if token is not None:
            return entered(request, token)
        page = explorer.render("login", wrong="key")
        page.status_code = 403
        return page

    @router.get("/static/{name}")
    async def static(name: str) -> Response:
        files = {
            one.name: one
            for one in (resources.files("corellarec.serve.explore") / "static").iterdir()
        }
        if name not in files:
            raise ProblemError(404, f"there is no file {name!r}")
        shared = shared_look().encode() if name == "explore.css" else b""
        return Response(
            shared + files[name].read_bytes(), media_type=KINDS[name.rpartition(".")[2]],
            headers={"Cache-Control": "max-age=86400"},
        )  # fmt: skip


def _add_users(router: APIRouter, explorer: Explorer) -> None:
    @router.get("/user")
    async def user(id: Id, page: Asked) -> Response:
        if page.name != id:  # no id in the address
            return RedirectResponse("/user?" + page.query, 303)
        return await explorer.user(page)

    @router.get("/candidates")
    async def candidates(page: Asked) -> HTMLResponse:
        return await explorer.candidates(page)

    @router.post("/candidates")
    async def all_candidates(page: Asked) -> HTMLResponse:
        return await explorer.candidates(page, anyway=True)

    @router.post("/history")
    async def history(page: Asked) -> HTMLResponse:
        return await explorer.history(page)

    @router.get("/why")
    async def why(page: Asked, item: Id) -> HTMLResponse:
        return await explorer.why(page, item)

    @router.post("/ask")
    async def ask(page: Asked, item: Id) -> HTMLResponse:
        return await explorer.ask(page, item)

    @router.get("/compare")
    async def compare(page: Asked, beside: Id) -> HTMLResponse:
        return await explorer.compare(page, beside)


def _add_decision(router: APIRouter, explorer: Explorer) -> None:
    service = explorer.service

    def may_set(request: Request) -> bool:
        return "admin" in request.state.scopes

    @router.get("/decision")
    async def decision(request: Request, found: Values) -> HTMLResponse:
        return explorer.render(
            "decision", title="What to ask about", page="decision",
            router=explain(service.now.model.router), may_set=may_set(request), **found,
        )  # fmt: skip

    @router.get("/decision/at")
    async def at_budget(request: Request, found: Values) -> HTMLResponse:
        return explorer.render("budget", may_set=may_set(request), **found)

    @router.post("/budget")
    async def set_budget(request: Request, budget: Budget) -> HTMLResponse:
        if not may_set(request):
            raise ProblemError(403, "setting the budget needs a key with the scope 'admin'")
        if service.bucket.rows_per_s is not None:
            raise ProblemError(422, "the budget is in rows a second: change budget.rows_per_s")
        service.bucket.share = budget / 100
        return HTMLResponse(
            f"<p>From now on the budget is {percent(budget / 100)} of the rows, until the service "
            "stops. To keep it, write it into <code>serve.toml</code>.</p>"
        )

    @router.get("/figure/{name}")
    async def figures(name: str) -> Response:
        found = await run_in_threadpool(figure, explorer.run, name)
        if found is None:
            raise ProblemError(404, f"there is no figure {name!r}")
        return Response(found, media_type="image/svg+xml")


def _add_live(router: APIRouter, explorer: Explorer) -> None:
    service = explorer.service

    @router.get("/live")
    async def live_page() -> HTMLResponse:
        return explorer.render(
            "live", title="Live", page="live", logged=service.decisions is not None
        )

    @router.get("/live/now")
    async def live_now() -> HTMLResponse:
        return explorer.render("now", reasons_in_words=REASONS, **live(service))

    @router.post("/live/gain")
    async def live_gain() -> HTMLResponse:
        if service.decisions is None:
            raise ProblemError(404, "decisions.directory is not set: there is no log of decisions")
        return explorer.render("gain", **await gain(service))
