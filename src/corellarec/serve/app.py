"""The routes of the service."""

import asyncio
import contextlib
import html
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException

import corellarec
from corellarec.serve.admin import load_model, models, roll_back
from corellarec.serve.answers import score
from corellarec.serve.explore.pages import add_pages
from corellarec.serve.explore.views import Explorer
from corellarec.serve.gate import Gate, is_page
from corellarec.serve.intake import add_events, erase_user, put
from corellarec.serve.keys import Key
from corellarec.serve.problems import FAULT, MEDIA_TYPE, ProblemError, problem_json
from corellarec.serve.ranking import recommend
from corellarec.serve.schemas import (
    Body,
    EraseAnswer,
    EventsAnswer,
    EventsRequest,
    HealthAnswer,
    Id,
    LoadModel,
    ModelAnswer,
    ModelsAnswer,
    Problem,
    PutAnswer,
    PutItem,
    PutUser,
    RecommendAnswer,
    RecommendRequest,
    ScoreAnswer,
    ScoreRequest,
)
from corellarec.serve.service import Service
from corellarec.serve.sessions import Sessions
from corellarec.serve.store import StoreError, StoreFullError

Identity = Annotated[Id, InPath()]


class _AnyText(PathConvertor):
    """The rest of a path as an id, which may hold slashes and line breaks."""

    regex = r"[\s\S]*"


register_url_convertor("any", _AnyText())
WHEN = {
    400: "The body is no JSON.",
    401: "No key, or an unknown one.",
    403: "The key does not have the route's scope.",
    409: "There is nothing to go back to.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    422: "A field is missing or wrong, or an item is not known.",
    429: "More requests than can be answered in time; `Retry-After` says when to ask again.",
    500: "An error of the service.",
    503: "The store cannot be reached, or the service is not ready.",
    507: "The store's disk is full.",
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": WHEN[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


ANY = (401, 403, 408, 413, 429, 500)
READS = _problems(*ANY)
ASKS = _problems(400, 422, 503, 507, *ANY)
OPEN = _problems(408, 413, 500)


def build_app(
    service: Service,
    keys: Sequence[Key],
    run: Path | None = None,
    sessions: Sessions | None = None,
) -> Gate:
    """The service as an ASGI application.

    Args:
        service: What answers.
        keys: Of callers.
        run: Directory of the run that is served, for the explorer's figures.
        sessions: Of people, where the caller has a word for one.
    """
    sessions = sessions or Sessions(keys)

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        saving = asyncio.create_task(service.keep_saving())
        yield
        saving.cancel()
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="corellarec",
        version=corellarec.__version__,
        summary="A cascade of a conventional recommender model and a language model.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service, app.state.stopping = service, False
    _add_answers(app, service)
    _add_intake(app, service)
    _add_admin(app, service)
    _add_health(app, service)
    app.state.explorer = Explorer(service, run)
    app.include_router(add_pages(app.state.explorer, sessions))
    _add_errors(app)
    _add_problem_schema(app)
    return Gate(app, service.config.http, sessions, service.metrics, service.tracing)


def _add_answers(app: FastAPI, service: Service) -> None:
    @app.post("/v1/score", response_model=ScoreAnswer, responses=ASKS)
    async def score_candidates(request: Request, body: ScoreRequest) -> Response:
        """Answer candidates of one user, in their order."""
        state = request.state
        state.user = body.user
        found = await score(
            service, body, state.request_id, state.received, may_add="events" in state.scopes
        )
        return _json(found)

    @app.post("/v1/recommend", response_model=RecommendAnswer, responses=ASKS)
    async def recommend_items(request: Request, body: RecommendRequest) -> Response:
        """Rank items for one user, best first."""
        state = request.state
        state.user = body.user
        return _json(await recommend(service, body, state.request_id, state.received))


def _add_intake(app: FastAPI, service: Service) -> None:
    @app.post("/v1/events", responses=ASKS)
    async def add_interactions(body: EventsRequest) -> EventsAnswer:
        """Add interactions. Once answered, they are on disk, and in the next answers."""
        return await add_events(service, body)

    @app.put("/v1/items/{id:any}", responses=ASKS)
    async def put_item(id: Identity, body: PutItem) -> PutAnswer:
        """Add an item that the model does not know; a known one stays as it is."""
        attributes = {**body.attributes, "title": body.title}
        return PutAnswer(added=await put(service, "item", id, attributes))

    @app.put("/v1/users/{id:any}", responses=ASKS)
    async def put_user(id: Identity, body: PutUser) -> PutAnswer:
        """Add a user that the model does not know; a known one stays as it is."""
        return PutAnswer(added=await put(service, "user", id, dict(body.attributes)))

    @app.delete("/v1/users/{id:any}", responses=ASKS)
    async def delete_user(id: Identity) -> EraseAnswer:
        """Remove a user's events and state, and ignore the log's rows of the user."""
        return EraseAnswer(events=await erase_user(service, id))


def _add_admin(app: FastAPI, service: Service) -> None:
    @app.get("/v1/admin/models", responses=READS)
    async def list_models() -> ModelsAnswer:
        """Which cascades are loaded, and what each answers."""
        return models(service)

    @app.post("/v1/admin/models", responses=ASKS)
    async def load_another(body: LoadModel) -> ModelsAnswer:
        """Load another cascade from a directory of this machine, without losing a request."""
        return await load_model(service, body)

    @app.post("/v1/admin/rollback", responses={**READS, **_problems(409)})
    async def go_back() -> ModelsAnswer:
        """Take the cascade beside the live one away or, where there is none, the last one back."""
        return await roll_back(service)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/livez", responses=OPEN)
    async def lives() -> HealthAnswer:
        """Whether the process answers."""
        return HealthAnswer(status="ok")

    @app.get("/readyz", responses={**OPEN, **_problems(503)})
    async def ready() -> HealthAnswer:
        """Whether requests may be sent: the CRM is loaded, and the service is not stopping."""
        if app.state.stopping:
            raise ProblemError(503, "the service is stopping")
        return HealthAnswer(status="ok")

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}, **READS})
    async def metrics() -> Response:
        """Metrics in Prometheus's text format."""
        return Response(service.measure(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/model", responses=READS)
    async def model() -> ModelAnswer:
        """What is served."""
        return service.describe()

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(_docs_page(app.openapi()))


def _json(body: Body) -> Response:
    return Response(body.model_dump_json(exclude_none=False), media_type="application/json")


def _add_errors(app: FastAPI) -> None:
    def problem(request: Request, status: int, detail: str, headers: Any = None) -> Response:  # noqa: ANN401
        if is_page(request.url.path) and "text/html" in request.headers.get("accept", ""):
            page = app.state.explorer.render(
                "problem", title="This page cannot be shown", page="", detail=detail
            )
            return Response(page.body, status, headers, page.media_type)
        body = problem_json(status, detail, request.state.request_id)
        return Response(body, status, headers, MEDIA_TYPE)

    @app.exception_handler(ProblemError)
    async def refused(request: Request, error: ProblemError) -> Response:
        return problem(request, error.status, error.detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> Response:
        errors = error.errors()
        first = errors[0]
        if first["type"] == "json_invalid":
            return problem(request, 400, f"the body is no JSON: {first['ctx']['error']}")
        first = max(errors, key=lambda one: len(one["loc"]))  # of what a field may be, the nearest
        parts = [str(part) for part in first["loc"] if part != "body"]
        place = ".".join(part for part in parts if "[" not in part)  # no names of pydantic's
        more = f"; {len(errors) - 1} more" if len(errors) > 1 else ""
        return problem(request, 422, f"{place or 'body'}: {first['msg']}{more}")

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        return problem(request, error.status_code, str(error.detail), error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, _: Exception) -> Response:
        return problem(request, 500, FAULT)  # the gate logs what it was

    @app.exception_handler(StoreFullError)
    async def full(request: Request, error: StoreFullError) -> Response:
        return problem(request, 507, str(error))

    @app.exception_handler(StoreError)
    async def unreachable(request: Request, error: StoreError) -> Response:
        return problem(request, 503, str(error), {"Retry-After": "1"})


def _add_problem_schema(app: FastAPI) -> None:
    """Problem details and keys in the OpenAPI document."""
    generate = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = generate()
            parts = found.setdefault("components", {})
            parts.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
            parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            found["security"] = [{"key": []}, {}]
            app.openapi_schema = found
        return app.openapi_schema or {}

    app.openapi = document


def _docs_page(document: dict[str, Any]) -> str:
    """The OpenAPI document as one page that loads nothing."""
    parts = [f"<h1>{html.escape(document['info']['title'])} {document['info']['version']}</h1>"]
    parts.append('<p>The whole document: <a href="/openapi.json">openapi.json</a></p>')
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts.append(f"<p>{html.escape(route.get('description', ''))}</p>")
    parts.append("<h1>Bodies</h1>")
    for name, schema in document["components"]["schemas"].items():
        if "Validation" in name:
            continue
        parts.append(f"<h2><code>{html.escape(name)}</code></h2>")
        parts.append(f"<p>{html.escape(schema.get('description', ''))}</p>")
        examples = schema.get("examples", [])
        parts += [f"<pre>{html.escape(json.dumps(one))}</pre>" for one in examples]
        rows = [
            f"<tr><td><code>{html.escape(field)}</code></td>"
            f"<td>{'required' if field in schema.get('required', []) else ''}</td>"
            f"<td>{html.escape(about.get('description', ''))}</td></tr>"
            for field, about in schema.get("properties", {}).items()
        ]
        parts.append(f"<table>{''.join(rows)}</table>")
    style = "body{font:16px sans-serif;max-width:50em;margin:2em auto}td{padding:.2em 1em .2em 0}"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>corellarec</title>"
        f"<style>{style}</style>{''.join(parts)}</html>"
    )
