"""Requests to the service and the reading of its answers; nothing here sends anything."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote

from corellarec.base.errors import one_line
from corellarec.client.values import (
    Added,
    Candidate,
    Event,
    Explanation,
    ModelInfo,
    NewItem,
    OverloadedError,
    PastEvent,
    Scores,
    ServiceError,
    UnavailableError,
    Value,
)

T = TypeVar("T")
EVENTS_PER_REQUEST = 1000
UNAVAILABLE = (502, 503, 504, 507)


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and how its answer is read.

    Args:
        method: Of HTTP.
        path: Of the route.
        read: Makes the result from the answer's JSON.
        body: JSON to send, if any.
        repeated: Whether it may be sent again after a failure.
    """

    method: str
    path: str
    read: Callable[[Any], T]
    body: Mapping[str, Any] | None = None
    repeated: bool = True


class Answer(NamedTuple):
    """An HTTP answer that was read whole."""

    status: int
    headers: Mapping[str, str]
    content: bytes


# Requests; the arguments are those of the clients' methods.


def score(
    user: str,
    candidates: Sequence[str | NewItem],
    history: Iterable[PastEvent] | None,
    deadline_ms: int | None,
    *,
    explain: bool,
    ask_anyway: bool,
) -> Call[Scores]:
    """Score candidates."""
    body = {
        "user": user,
        "candidates": [_item(one) for one in candidates],
        "history": _rows(history),
        "deadline_ms": deadline_ms,
        "explain": explain,
        "ask_anyway": ask_anyway or None,  # which services before 0.3 do not know
    }
    return Call("POST", "/v1/score", _scores, _given(body))


def recommend(
    user: str,
    k: int,
    candidates: Iterable[str] | None,
    exclude: Iterable[str],
    where: Mapping[str, str] | None,
    history: Iterable[PastEvent] | None,
    deadline_ms: int | None,
    *,
    exclude_seen: bool,
    explain: bool,
) -> Call[Scores]:
    """Rank items."""
    body = {
        "user": user,
        "k": k,
        "candidates": None if candidates is None else list(candidates),
        "exclude": list(exclude),
        "exclude_seen": exclude_seen,
        "where": dict(where or {}),
        "history": _rows(history),
        "deadline_ms": deadline_ms,
        "explain": explain,
    }
    return Call("POST", "/v1/recommend", _scores, _given(body))


def add_events(events: Iterable[Event]) -> Iterator[Call[Added]]:
    """Add events, so many a request that a body stays below the service's limit."""
    rows = _rows(events) or []
    for start in range(0, len(rows), EVENTS_PER_REQUEST):
        body = {"events": rows[start : start + EVENTS_PER_REQUEST]}
        yield Call("POST", "/v1/events", lambda answer: _fields(Added, answer), body)


def put_item(id: str, title: str, attributes: Mapping[str, Value] | None) -> Call[bool]:
    """Add an item."""
    body = {"title": title, "attributes": dict(attributes or {})}
    return Call("PUT", f"/v1/items/{_segment(id)}", lambda answer: bool(answer["added"]), body)


def put_user(id: str, attributes: Mapping[str, Value] | None) -> Call[bool]:
    """Add a user."""
    body = {"attributes": dict(attributes or {})}
    return Call("PUT", f"/v1/users/{_segment(id)}", lambda answer: bool(answer["added"]), body)


def erase_user(id: str) -> Call[int]:
    """Erase a user."""
    return Call("DELETE", f"/v1/users/{_segment(id)}", lambda answer: int(answer["events"]))


def model() -> Call[ModelInfo]:
    """Describe what is served."""
    return Call("GET", "/v1/model", lambda answer: _fields(ModelInfo, answer))


def ready() -> Call[bool]:
    """Whether requests may be sent."""
    return Call("GET", "/readyz", lambda answer: answer["status"] == "ok", repeated=False)


def _item(item: str | NewItem) -> str | dict[str, Any]:
    if isinstance(item, str):
        return item
    return {"id": item.id, "title": item.title, "attributes": dict(item.attributes)}


def _segment(id: str) -> str:
    """An id as one part of a path."""
    return quote(id, safe="")


def _given(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body without what is not given."""
    return {name: value for name, value in body.items() if value is not None}


def _rows(events: Iterable[Event | PastEvent] | None) -> list[dict[str, Any]] | None:
    if events is None:
        return None
    rows = []
    for event in events:
        row = _given(asdict(event))
        if isinstance(when := row.get("time"), datetime):
            row["time"] = when.isoformat()
        rows.append(row)
    return rows


# Answers.


def read(call: Call[T], answer: Answer) -> T:
    """What an answer holds.

    Raises:
        ServiceError: If it is an error, or not what the service answers to such a request.
    """
    if not 200 <= answer.status < 300:
        raise _error(answer)
    try:
        return call.read(json.loads(answer.content))
    except (ValueError, KeyError, TypeError) as error:
        raise ServiceError(
            f"{call.method} {call.path}: the answer is none of corellarec's "
            f"({type(error).__name__}: {one_line(str(error), 100)}): check base_url",
            answer.status,
            answer.headers.get("x-request-id"),
        ) from error


def _error(answer: Answer) -> ServiceError:
    """An answer that is an error; of the service as a problem, of a proxy as any text."""
    detail = ""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        detail = str(json.loads(answer.content)["detail"])
    if not detail:
        detail = one_line(answer.content[:2000].decode("utf-8", "replace")) or "no explanation"
    if answer.status == 429:
        kind = OverloadedError
    else:
        kind = UnavailableError if answer.status in UNAVAILABLE else ServiceError
    wait = answer.headers.get("retry-after", "")
    return kind(
        one_line(detail, 1000),
        answer.status,
        answer.headers.get("x-request-id"),
        float(wait) if wait.isdecimal() else None,
    )


def _scores(answer: Any) -> Scores:  # noqa: ANN401 (JSON)
    candidates = tuple(_candidate(row) for row in answer["candidates"])
    return _fields(Scores, {**answer, "candidates": candidates})


def _candidate(row: Any) -> Candidate:  # noqa: ANN401 (JSON)
    if (explanation := row["explanation"]) is not None:
        explanation = _fields(Explanation, explanation)
    return _fields(Candidate, {**row, "explanation": explanation})


def _fields(kind: Callable[..., T], answer: Any) -> T:  # noqa: ANN401 (JSON)
    """A dataclass from an answer's fields; others, of a later service, are left out."""
    return kind(**{one.name: answer[one.name] for one in fields(kind)})  # pyright: ignore[reportArgumentType]


def total(answers: Sequence[Added]) -> Added:
    """The sum of several answers."""
    return Added(sum(one.accepted for one in answers), sum(one.duplicates for one in answers))
