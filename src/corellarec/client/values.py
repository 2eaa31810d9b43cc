"""What is sent to the service and what it answers; its errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from uuid import uuid4

from corellarec.base.errors import CorellarecError

Value = str | float | bool | Sequence[str] | None


class ServiceError(CorellarecError):
    """The service refused a request, or its answer cannot be read.

    Args:
        detail: What the service says.
        status: HTTP status code; None where there was no answer.
        request_id: Of the request, as in the service's log; None where there was no answer.
        retry_after_s: Seconds after which the service says to ask again, if it says so.
    """

    def __init__(
        self,
        detail: str,
        status: int | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        text = detail if status is None else f"{status}: {detail}"
        super().__init__(text if request_id is None else f"{text} (request {request_id})")
        self.detail, self.status, self.request_id = detail, status, request_id
        self.retry_after_s = retry_after_s


class OverloadedError(ServiceError):
    """The service has more requests than it can answer in time (429)."""


class UnavailableError(ServiceError):
    """The service cannot be reached, is late, or lacks its store (502, 503, 504, 507)."""


def _check(label: int | None, rating: float | None, time: datetime | None) -> None:
    if (label is None) == (rating is None):
        raise ValueError("give label (1 or 0) or rating, one of them")
    if time is not None and time.tzinfo is None:
        raise ValueError(f"time {time} has no time zone: datetime.now(UTC) has one")


@dataclass(frozen=True)
class Event:
    """An interaction; either a label or a rating.

    Args:
        user: Id.
        item: Id of an item that the service knows.
        label: 1 liked, 0 not.
        rating: In the log's scale.
        time: When it was, with a time zone; by default when the service receives it.
        event_id: By which the service counts it once, however often it is sent; by default a
            random one, made with the event.

    Raises:
        ValueError: If both or neither of label and rating are given, or the time has no zone.

    Example:
        >>> Event("196", "50", rating=5) == Event("196", "50", rating=5)  # two event_ids
        False
    """

    user: str
    item: str
    label: Literal[0, 1] | None = None
    rating: float | None = None
    time: datetime | None = None
    event_id: str = field(default_factory=lambda: str(uuid4()))

    def __post_init__(self) -> None:
        _check(self.label, self.rating, self.time)


@dataclass(frozen=True)
class PastEvent:
    """A row of a history that is sent in place of the stored one.

    Args:
        item: Id of an item that the service knows.
        label: 1 liked, 0 not.
        rating: In the log's scale.
        time: When it was, with a time zone; of all rows or of none, whose order is their time.

    Raises:
        ValueError: If both or neither of label and rating are given, or the time has no zone.
    """

    item: str
    label: Literal[0, 1] | None = None
    rating: float | None = None
    time: datetime | None = None

    def __post_init__(self) -> None:
        _check(self.label, self.rating, self.time)


@dataclass(frozen=True)
class NewItem:
    """A candidate that the service may not know yet.

    Args:
        id: Of the item.
        title: What the language model reads.
        attributes: Features that the log's items have, such as genres.
    """

    id: str
    title: str
    attributes: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """Why a row was decided as it was.

    Args:
        value: Nats that asking the LLM is expected to save.
        threshold: Above it the LLM is asked.
        history_rows: Rows of history that the CRM reads.
        item_rows: Training rows of the item.
    """

    value: float
    threshold: float
    history_rows: int
    item_rows: int


@dataclass(frozen=True)
class Candidate:
    """The answer for one item.

    Args:
        item: Id.
        p: Probability that the user likes the item.
        p_crm: The calibrated CRM's.
        p_llm: The calibrated LLM's; None where it did not answer.
        source: Whose answer ``p`` is: ``crm``, ``blend`` or ``llm``.
        reason: Why it is that one's.
        explanation: If it was asked for.
    """

    item: str
    p: float
    p_crm: float
    p_llm: float | None
    source: str
    reason: str
    explanation: Explanation | None


@dataclass(frozen=True)
class Scores:
    """Answers for the candidates of one user.

    Args:
        candidates: In the request's order, or best first.
        degraded: Whether the LLM or the store was wanted and not there.
        model: Checksum of the cascade that answered.
        request_id: Of the request, as in the service's log.
    """

    candidates: tuple[Candidate, ...]
    degraded: bool
    model: str
    request_id: str


@dataclass(frozen=True)
class Added:
    """What became of events.

    Args:
        accepted: Events that are new.
        duplicates: Events that the service had.
    """

    accepted: int
    duplicates: int


@dataclass(frozen=True)
class ModelInfo:
    """What the service serves.

    Args:
        version: Checksum of the cascade.
        crm: Name of the CRM.
        llm: Name of the LLM, or ``off``.
        llm_ready: Whether the LLM is loaded.
        llm_error: Why it cannot be loaded, or None.
        router: The router's rule and its verdict.
        items: Items that are known.
        users: Users that are known.
    """

    version: str
    crm: str
    llm: str
    llm_ready: bool
    llm_error: str | None
    router: str
    items: int
    users: int
