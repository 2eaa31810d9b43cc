"""The client for an event loop."""

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from corellarec.base.network import certificates
from corellarec.client import calls
from corellarec.client.calls import Answer, Call, read
from corellarec.client.client import Client
from corellarec.client.connection import (
    Attempts,
    as_unavailable,
    checked_limits,
    checked_url,
    headers_of,
)
from corellarec.client.values import (
    Added,
    Event,
    ModelInfo,
    NewItem,
    PastEvent,
    Scores,
    ServiceError,
    UnavailableError,
    Value,
)

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def _documented_by(method: Callable[..., Any]) -> Callable[[F], F]:
    """Give a function another one's docstring."""

    def add(function: F) -> F:
        function.__doc__ = inspect.getdoc(method)
        return function

    return add


class AsyncClient:
    """As :class:`Client`, for an event loop of asyncio: methods are awaited.

    Args:
        base_url: Of the service.
        key: From ``corellarec serve-key``, if the service has keys.
        timeout_s: Seconds that a call may take in all, its repetitions included.
        retries: Repetitions of a call.
        transport: In place of httpx's: for tests, or a proxy.

    Raises:
        ConfigError: If the URL, the key or a number cannot be used.

    Example:
        >>> async def best() -> Scores:
        ...     async with AsyncClient("http://127.0.0.1:8000") as client:
        ...         return await client.recommend("196", k=3)
    """

    def __init__(
        self,
        base_url: str,
        key: str | None = None,
        *,
        timeout_s: float = 5.0,
        retries: int = 2,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.base_url = checked_url(base_url)
        self.timeout_s, self.retries = checked_limits(timeout_s, retries)
        self._http = httpx.AsyncClient(
            base_url=self.base_url,
            headers=headers_of(key),
            transport=transport or httpx.AsyncHTTPTransport(verify=certificates()),
            timeout=None,  # each attempt has one
            trust_env=False,
        )

    @_documented_by(Client.score)
    async def score(
        self,
        user: str,
        candidates: Sequence[str | NewItem],
        *,
        history: Iterable[PastEvent] | None = None,
        deadline_ms: int | None = None,
        explain: bool = False,
        ask_anyway: bool = False,
    ) -> Scores:
        """As ``Client.score``."""
        return await self._ask(
            calls.score(
                user, candidates, history, deadline_ms, explain=explain, ask_anyway=ask_anyway
            )
        )

    @_documented_by(Client.recommend)
    async def recommend(
        self,
        user: str,
        k: int = 10,
        *,
        candidates: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        exclude_seen: bool = True,
        where: Mapping[str, str] | None = None,
        history: Iterable[PastEvent] | None = None,
        deadline_ms: int | None = None,
        explain: bool = False,
    ) -> Scores:
        """As ``Client.recommend``."""
        return await self._ask(
            calls.recommend(user, k, candidates, exclude, where, history, deadline_ms,
                            exclude_seen=exclude_seen, explain=explain)
        )  # fmt: skip

    @_documented_by(Client.add_events)
    async def add_events(self, events: Iterable[Event]) -> Added:
        """As ``Client.add_events``."""
        return calls.total([await self._ask(call) for call in calls.add_events(events)])

    @_documented_by(Client.put_item)
    async def put_item(
        self, id: str, title: str, attributes: Mapping[str, Value] | None = None
    ) -> bool:
        """As ``Client.put_item``."""
        return await self._ask(calls.put_item(id, title, attributes))

    @_documented_by(Client.put_user)
    async def put_user(self, id: str, attributes: Mapping[str, Value] | None = None) -> bool:
        """As ``Client.put_user``."""
        return await self._ask(calls.put_user(id, attributes))

    @_documented_by(Client.erase_user)
    async def erase_user(self, id: str) -> int:
        """As ``Client.erase_user``."""
        return await self._ask(calls.erase_user(id))

    @_documented_by(Client.model)
    async def model(self) -> ModelInfo:
        """As ``Client.model``."""
        return await self._ask(calls.model())

    @_documented_by(Client.ready)
    async def ready(self) -> bool:
        """As ``Client.ready``."""
        try:
            return await self._ask(calls.ready())
        except UnavailableError:
            return False

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _ask(self, call: Call[T]) -> T:
        attempts = Attempts(self.retries if call.repeated else 0, self.timeout_s)
        while True:
            try:
                with as_unavailable(self.base_url, self.timeout_s):
                    answer = await self._send(call, attempts)
                return read(call, answer)
            except ServiceError as error:
                await asyncio.sleep(attempts.wait_s(error))

    async def _send(self, call: Call[T], attempts: Attempts) -> Answer:
        """One attempt, within the time that is left."""
        async with asyncio.timeout(attempts.left_s()):
            response = await self._http.request(call.method, call.path, json=call.body)
        return Answer(response.status_code, response.headers, response.content)
