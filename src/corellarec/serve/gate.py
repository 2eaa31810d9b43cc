"""What every request passes first: identity, size, key, rate, and room; then its answer's headers.

All of it happens before the body is parsed, so that a request that is refused costs little.
"""

import asyncio
import contextlib
import ipaddress
import json
import re
import secrets
import sys
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from corellarec.serve.keys import SCOPES, find_key
from corellarec.serve.keys import Scope as KeyScope
from corellarec.serve.metrics import Metrics
from corellarec.serve.problems import FAULT, MEDIA_TYPE, ProblemError, problem_json, retry_after
from corellarec.serve.sessions import Sessions
from corellarec.serve.settings import HttpSettings
from corellarec.serve.tracing import Tracing

OPEN = ("/livez", "/readyz", "/docs", "/openapi.json", "/login")
ADMIN = ("/metrics",)
PAGES = (
    "/", "/user", "/random", "/candidates", "/history", "/why", "/ask", "/compare", "/decision",
    "/decision/at", "/budget", "/live", "/live/now", "/live/gain",
)  # fmt: skip
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]
API_POLICY = (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'")
PAGE_POLICY = (
    b"content-security-policy",
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    b"connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
)
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


def _is_local(host: str) -> bool:
    """Whether a request's host is this machine: a page elsewhere may point its own name here."""
    name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
    try:
        return name == "localhost" or ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def is_page(path: str) -> bool:
    """Whether a path is one of the explorer's pages, or a part of one."""
    return path in PAGES or path == "/login"


def scope_of(method: str, path: str) -> KeyScope | None:
    """The scope that a route needs; None where it needs none."""
    if path in OPEN or path.startswith("/static/"):
        return None
    if path in PAGES or path.startswith("/figure/"):
        return "explore"
    if path in ADMIN or path.startswith("/v1/admin"):
        return "admin"
    if method in ("PUT", "DELETE") or path == "/v1/events":
        return "events"
    return "score"


@dataclass
class Caller:
    """A key's requests lately.

    Args:
        tokens: Requests that it may still make at once.
        last: When that was counted.
    """

    tokens: float = 1.0
    last: float = field(default_factory=time.monotonic)


class Gate:
    """An ASGI application in front of another one.

    Args:
        app: What answers.
        settings: Limits.
        sessions: Of people, with the keys of all callers; where there are no keys, every caller may
            do everything.
        metrics: What is counted.
        tracing: Makes a span of each request.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: HttpSettings,
        sessions: Sessions,
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        self.tracing = tracing
        self.app, self.settings, self.metrics = app, settings, metrics
        self.sessions, self.keys = sessions, sessions.keys
        self.in_flight = 0
        self._callers: dict[str, Caller] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        received, headers = time.monotonic(), Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state.update(received=received, request_id=request_id, scopes=SCOPES)
        status, begun = 500, False

        async def answer(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                policy = PAGE_POLICY if is_page(scope["path"]) else API_POLICY
                extra = [*HEADERS, policy, (b"x-request-id", request_id.encode())]
                own = message.get("headers", [])
                if not any(name == b"cache-control" for name, _ in own):
                    extra.append((b"cache-control", b"no-store"))
                message["headers"] = [*own, *extra]
            await send(message)

        try:
            replay = await self._admit(scope, headers, receive, state)
            about = {"request_id": request_id, "http.request.method": scope["method"]}
            with self.tracing.span(scope["method"], about, headers) as span:
                await self.app(scope, replay, answer)
                if span:
                    route = _route(scope)
                    span.update_name(f"{scope['method']} {route}")
                    span.set_attributes({"http.route": route, "http.response.status_code": status})
        except ProblemError as problem:
            await _refuse(answer, problem, request_id)
        except asyncio.CancelledError:  # the service stops, and this would take too long
            if begun:
                raise
            problem = ProblemError(503, "the service is stopping", {"Connection": "close"})
            await _refuse(answer, problem, request_id)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            said, place = f"{type(error).__name__}: {error}", f"{last.filename}:{last.lineno}"
            _log({"error": said, "place": place, "request_id": request_id})
            if not begun:
                await _refuse(answer, ProblemError(500, FAULT), request_id)
        finally:
            self.in_flight -= "in_flight" in state
            self._note(scope, state, status, time.monotonic() - received)

    async def _admit(
        self, scope: Scope, headers: Headers, receive: Receive, state: dict[str, Any]
    ) -> Receive:
        """Check a request; returns its body as the application receives it."""
        path, method = scope["path"], scope["method"]
        if not self.keys and not _is_local(headers.get("host", "")):
            raise ProblemError(
                403,
                "a service without keys answers to names of this machine alone: make a key by "
                "`corellarec serve-key`",
            )
        if method != "GET" and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise ProblemError(403, "a browser sent this from a page of another site")
        needed = scope_of(method, path)
        if needed is not None:
            name = self._authorise(headers, needed, state)
            self._limit(name)
            if self.in_flight >= self.settings.max_in_flight:
                raise ProblemError(
                    429,
                    f"{self.settings.max_in_flight} requests are in work: ask again later",
                    retry_after(1.0),
                )
            self.in_flight += 1  # those that need no key take no room
            state["in_flight"] = True
        return await self._body(headers, receive)

    def _authorise(self, headers: Headers, needed: KeyScope, state: dict[str, Any]) -> str:
        if not self.keys:
            return "all"
        kind, _, given = headers.get("authorization", "").partition(" ")
        key = find_key(self.keys, given.strip()) if kind.lower() == "bearer" else None
        if needed == "explore" and key is None:
            key = self.sessions.find(headers.get("cookie", ""))
            if key is None:
                raise ProblemError(303, "enter a key", {"Location": "/login"})
        if key is None:
            raise ProblemError(
                401, "give a key: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
            )
        if needed not in key.scopes:
            raise ProblemError(403, f"this key does not have the scope {needed!r}")
        state.update(scopes=key.scopes, key=key.name)
        return key.name

    def _limit(self, name: str) -> None:
        rate = self.settings.requests_per_s
        if rate is None:
            return
        now, caller = time.monotonic(), self._callers.setdefault(name, Caller(max(1.0, rate)))
        caller.tokens = min(max(1.0, rate), caller.tokens + rate * (now - caller.last))
        caller.last = now
        if caller.tokens < 1:
            raise ProblemError(
                429,
                f"more than {rate:g} requests a second",
                retry_after((1 - caller.tokens) / rate),
            )
        caller.tokens -= 1

    async def _body(self, headers: Headers, receive: Receive) -> Receive:
        """The whole body, if it is small enough and comes in time."""
        most = self.settings.max_body_kb * 1024
        too_large = ProblemError(
            413, f"a body has at most {most:,} bytes (http.max_body_kb)", {"Connection": "close"}
        )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > most:
            raise too_large
        messages, size = [], 0
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                while True:
                    message = await receive()
                    messages.append(message)
                    size += len(message.get("body", b""))
                    if size > most:
                        raise too_large
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise ProblemError(
                408, "the body did not come in time", {"Connection": "close"}
            ) from None

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        return replay

    def _note(self, scope: Scope, state: dict[str, Any], status: int, seconds: float) -> None:
        route = _route(scope)
        self.metrics.requests.labels(route, status).inc()
        self.metrics.request_seconds.labels(route).observe(seconds)
        if self.settings.log_requests:
            line = {
                "time": round(time.time(), 3),
                "request_id": state["request_id"],
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round(1000 * seconds, 2),
            }
            if "key" in state:
                line["key"] = state["key"]
            if self.settings.log_ids and "user" in state:
                line["user"] = state["user"]
            _log(line)


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path_format", "refused")


async def _refuse(send: Send, problem: ProblemError, request_id: str) -> None:
    headers = {"content-type": MEDIA_TYPE, **problem.headers}
    body = problem_json(problem.status, problem.detail, request_id)
    headers["content-length"] = str(len(body))
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _log(line: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # a log on a full disk
        sys.stderr.write(json.dumps(line) + "\n")
