"""The client whose methods wait for the answer."""

import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

import httpx

from corellarec.base.network import certificates
from corellarec.client import calls
from corellarec.client.calls import Answer, Call, read
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


class Client:
    """Asks a service; any thread may use it.

    A call is repeated after a lost connection, and after 429 or 503 where the service says when to
    ask again: at most ``retries`` times, and never beyond ``timeout_s``. The service counts an
    event once, so that repeating is harmless. Environment variables for proxies are ignored.

    Args:
        base_url: Of the service.
        key: From ``corellarec serve-key``, if the service has keys.
        timeout_s: Seconds that a call may take in all, its repetitions included.
        retries: Repetitions of a call.
        transport: In place of httpx's: for tests, or a proxy.

    Raises:
        ConfigError: If the URL, the key or a number cannot be used.

    Example:
        >>> with Client("http://127.0.0.1:8000", key="clr_...") as client:  # doctest: +SKIP
        ...     best = client.recommend("196", k=3).candidates
    """

    def __init__(
        self,
        base_url: str,
        key: str | None = None,
        *,
        timeout_s: float = 5.0,
        retries: int = 2,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.base_url = checked_url(base_url)
        self.timeout_s, self.retries = checked_limits(timeout_s, retries)
        self._http = httpx.Client(
            base_url=self.base_url,
            headers=headers_of(key),
            transport=transport or httpx.HTTPTransport(verify=certificates()),
            trust_env=False,
        )

    def score(
        self,
        user: str,
        candidates: Sequence[str | NewItem],
        *,
        history: Iterable[PastEvent] | None = None,
        deadline_ms: int | None = None,
        explain: bool = False,
        ask_anyway: bool = False,
    ) -> Scores:
        """Score items for one user.

        Args:
            user: Id; an unknown one is a new user.
            candidates: Ids of items, or items that the service may not know.
            history: In place of the stored one.
            deadline_ms: Milliseconds within which the service answers; by default its own.
            explain: Whether to say why each row was decided as it was.
            ask_anyway: Whether the language model is asked about all rows that the budget allows,
                expected to gain or not.

        Returns:
            Answers in the order of ``candidates``.

        Raises:
            ServiceError: If the service refuses or cannot be reached.
        """
        return self._ask(
            calls.score(
                user, candidates, history, deadline_ms, explain=explain, ask_anyway=ask_anyway
            )
        )

    def recommend(
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
        """Rank items for one user.

        Args:
            user: Id; an unknown one is a new user.
            k: Items at most.
            candidates: Ids of the items to rank; by default all.
            exclude: Ids of items to leave out.
            exclude_seen: Leave out items of the user's events.
            where: Attributes that items must have, such as ``{"genres": "Comedy"}``.
            history: In place of the stored one.
            deadline_ms: Milliseconds within which the service answers; by default its own.
            explain: Whether to say why each row was decided as it was.

        Returns:
            Answers, best first.

        Raises:
            ServiceError: If the service refuses or cannot be reached.
        """
        return self._ask(
            calls.recommend(user, k, candidates, exclude, where, history, deadline_ms,
                            exclude_seen=exclude_seen, explain=explain)
        )  # fmt: skip

    def add_events(self, events: Iterable[Event]) -> Added:
        """Add interactions; once this returns, they are on disk, and in the next answers.

        They are sent 1,000 a request. After an error the same events can be sent again: the
        service counts each once.

        Args:
            events: What users did.

        Returns:
            How many were new, and how many the service had.

        Raises:
            ServiceError: If the service refuses or cannot be reached.
        """
        return calls.total([self._ask(call) for call in calls.add_events(events)])

    def put_item(self, id: str, title: str, attributes: Mapping[str, Value] | None = None) -> bool:
        """Add an item that the model does not know; a known one stays as it is.

        Args:
            id: Of the item.
            title: What the language model reads.
            attributes: Features that the log's items have, such as genres.

        Returns:
            Whether it is new.

        Raises:
            ServiceError: If the service refuses or cannot be reached.
        """
        return self._ask(calls.put_item(id, title, attributes))

    def put_user(self, id: str, attributes: Mapping[str, Value] | None = None) -> bool:
        """Add a user that the model does not know; a known one stays as it is.

        Args:
            id: Of the user.
            attributes: Features that the log's users have.

        Returns:
            Whether the user is new.

        Raises:
            ServiceError: If the service refuses or cannot be reached.
        """
        return self._ask(calls.put_user(id, attributes))

    def erase_user(self, id: str) -> int:
        """Remove all that the service keeps of a user, and ignore the log's rows of the user.

        Args:
            id: Of the user.

        Returns:
            Events that were removed; those of the last attempt, where it was repeated.

        Raises:
            ServiceError: If the service refuses or cannot be reached.
        """
        return self._ask(calls.erase_user(id))

    def model(self) -> ModelInfo:
        """What the service serves.

        Raises:
            ServiceError: If the service refuses or cannot be reached.
        """
        return self._ask(calls.model())

    def ready(self) -> bool:
        """Whether the service can be reached and takes requests; one attempt.

        Raises:
            ServiceError: If what answers is not the service.
        """
        try:
            return self._ask(calls.ready())
        except UnavailableError:
            return False

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, call: Call[T]) -> T:
        attempts = Attempts(self.retries if call.repeated else 0, self.timeout_s)
        while True:
            try:
                with as_unavailable(self.base_url, self.timeout_s):
                    answer = self._send(call, attempts)
                return read(call, answer)
            except ServiceError as error:
                time.sleep(attempts.wait_s(error))

    def _send(self, call: Call[T], attempts: Attempts) -> Answer:
        """One attempt, within the time that is left."""
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), attempts.left_s())

        def shorten(event: str, info: object) -> None:
            """Give each step (connecting, writing, reading) what the steps before it left."""
            timeouts.update(dict.fromkeys(timeouts, attempts.left_s()))

        extensions = {"timeout": timeouts, "trace": shorten}
        content = bytearray()
        with self._http.stream(
            call.method, call.path, json=call.body, extensions=extensions
        ) as response:
            for piece in response.iter_bytes():
                content += piece
                if attempts.is_over():
                    raise TimeoutError
        return Answer(response.status_code, response.headers, bytes(content))
