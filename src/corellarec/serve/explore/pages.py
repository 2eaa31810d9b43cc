"""The routes of the explorer."""

import asyncio
from importlib import resources
from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from corellarec.cascade.router import explain
from corellarec.evaluation.look import shared_look
from corellarec.serve.explore import look
from corellarec.serve.explore.decision import decision, figure
from corellarec.serve.explore.live import live
from corellarec.serve.explore.views import Explorer, Page
from corellarec.serve.problems import ProblemError
from corellarec.serve.service import Service
from corellarec.serve.sessions import COOKIE, Sessions

Places = Annotated[list[int], Query(default_factory=list, max_length=100)]
Id = Annotated[str, Query(min_length=1, max_length=256)]


def add_pages(service: Service, sessions: Sessions, run: Path | None) -> APIRouter:
    """The routes of the explorer.

    Args:
        service: What is looked into.
        sessions: Of people.
        run: Directory of the run that is served, for its figures.
    """
    router, explorer = APIRouter(include_in_schema=False), Explorer(service, run)
    chance = np.random.default_rng()

    @router.get("/")
    async def home() -> HTMLResponse:
        model = service.now.model
        names = [name for name, users in look.segments(model).items() if len(users)]
        return explorer.render(
            "home", title="Who should answer?", page="users", router=explain(model.router),
            segments=names,
        )  # fmt: skip

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
        return entered(request, token) if token else explorer.render("login", wrong=bool(word))

    @router.post("/login")
    async def login(
        request: Request, key: Annotated[str, Form(min_length=1, max_length=200)]
    ) -> Response:
        token = sessions.begin(key)
        if token is not None:
            return entered(request, token)
        page = explorer.render("login", wrong=True)
        page.status_code = 403
        return page

    @router.get("/random")
    async def random_user(of: Id) -> Response:
        model = service.now.model
        users = look.segments(model).get(of)
        if users is None or not len(users):
            raise ProblemError(404, f"there is no segment {of!r}")
        name = model.log.users["id"][int(chance.choice(users))]
        return RedirectResponse("/user?" + urlencode({"id": name}), 303)

    @router.get("/user")
    async def user(
        id: Id, drop: Places, flip: Places, words: str = "", sort: str = "answer"
    ) -> HTMLResponse:
        return await explorer.user(Page(id, drop, flip, words[:200], sort))

    @router.get("/candidates")
    async def candidates(
        id: Id, drop: Places, flip: Places, words: str = "", sort: str = "answer"
    ) -> HTMLResponse:
        return await explorer.candidates(Page(id, drop, flip, words[:200], sort))

    @router.get("/why")
    async def why(user: Id, item: Id, drop: Places, flip: Places) -> HTMLResponse:
        return await explorer.why(Page(user, drop, flip), item)

    @router.post("/ask")
    async def ask(
        user: Annotated[str, Form(min_length=1, max_length=256)],
        item: Annotated[str, Form(min_length=1, max_length=256)],
        drop: Annotated[list[int], Form(default_factory=list, max_length=100)],
        flip: Annotated[list[int], Form(default_factory=list, max_length=100)],
    ) -> HTMLResponse:
        return await explorer.ask(Page(user, drop, flip), item)

    @router.get("/decision")
    async def decision_page(
        budget: Annotated[int, Query(ge=0, le=100)] = 10,
        rows: Annotated[int, Query(ge=1, le=10**12)] = 1_000_000,
        price: Annotated[float, Query(ge=0, le=1e6)] = 0.1,
        tokens: Annotated[int, Query(ge=1, le=100_000)] = 20,
    ) -> HTMLResponse:
        values = await asyncio.to_thread(decision, run, budget / 100, rows, price, tokens)
        return explorer.render(
            "decision", title="What to ask about", page="decision",
            router=explain(service.now.model.router), budget=budget, rows=rows, price=price,
            tokens=tokens, **values,
        )  # fmt: skip

    @router.get("/figure/{name}")
    async def figures(name: str) -> Response:
        found = await asyncio.to_thread(figure, run, name)
        if found is None:
            raise ProblemError(404, f"there is no figure {name!r}")
        return Response(found, media_type="image/svg+xml")

    @router.get("/live")
    async def live_page() -> HTMLResponse:
        return explorer.render("live", title="Live", page="live")

    @router.get("/live/now")
    async def live_now() -> HTMLResponse:
        return explorer.render("now", **live(service))

    @router.get("/static/{name}")
    async def static(name: str) -> Response:
        kinds = {
            "css": "text/css; charset=utf-8",
            "js": "text/javascript; charset=utf-8",
            "svg": "image/svg+xml",
        }
        files = {
            one.name: one
            for one in (resources.files("corellarec.serve.explore") / "static").iterdir()
        }
        if name not in files:
            raise ProblemError(404, f"there is no file {name!r}")
        shared = shared_look().encode() if name == "explore.css" else b""
        return Response(
            shared + files[name].read_bytes(), media_type=kinds[name.rpartition(".")[2]],
            headers={"Cache-Control": "max-age=86400"},
        )  # fmt: skip

    return router
