"""Bodies of requests and answers."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Reason = Literal[
    "asked", "below_threshold", "explored", "verdict", "budget", "late", "breaker", "queue_full",
    "llm_error", "llm_not_ready", "llm_off",
]  # fmt: skip
DEGRADED = ("late", "breaker", "queue_full", "llm_error", "llm_not_ready")


def _plain(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds the character NUL")
    text.encode("utf-8")  # a lone surrogate is no text
    return text


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def _number_or_text(value: Any) -> Any:  # noqa: ANN401 (what JSON holds)
    """A whole number as an id is that number's digits."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Id = Annotated[
    str,
    BeforeValidator(_number_or_text, json_schema_input_type=str | int),
    Field(min_length=1, max_length=256),
    AfterValidator(_plain),
]
Time = Annotated[datetime, AfterValidator(_utc)]
Text = Annotated[str, Field(max_length=2000), AfterValidator(_plain)]
Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e9, le=1e9)]
Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
Value = Text | bool | Whole | Finite | Annotated[list[Text], Field(max_length=100)] | None
Attributes = Annotated[dict[Text, Value], Field(max_length=100)]


class Body(BaseModel):
    """A body: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Answered(Body):
    """A label, or a rating from which it follows."""

    label: Annotated[Literal[0, 1] | None, Field(description="1 liked, 0 not.")] = None
    rating: Annotated[Finite | None, Field(description="In the log's scale.")] = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "Answered":
        if (self.label is None) == (self.rating is None):
            raise ValueError("give label (1 or 0) or rating, one of them")
        return self


class PastEvent(Answered):
    """A row of a history that comes with the request."""

    item: Id
    time: Annotated[Time | None, Field(description="By default the rows' order is their time.")] = (
        None
    )


class NewItem(Body):
    """An item that the model does not know; it is kept as by ``PUT /v1/items``."""

    id: Id
    title: Text
    attributes: Attributes = {}


class ScoreRequest(Body):
    """Candidates of one user."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"user": "196", "candidates": ["318", "50"], "deadline_ms": 50}]
        }
    )
    user: Id
    candidates: Annotated[list[Id | NewItem], Field(min_length=1, max_length=100_000)]
    history: Annotated[
        list[PastEvent] | None,
        Field(description="In place of the stored history.", max_length=100_000),
    ] = None
    deadline_ms: Annotated[int | None, Field(ge=1, le=600_000)] = None
    explain: bool = False
    ask_anyway: Annotated[
        bool,
        Field(description="Ask the language model about all that the budget allows, expected to "
              "gain or not: for one arm of an A/B test, or for new items."),
    ] = False  # fmt: skip


class Explanation(Body):
    """Why a row was decided as it was."""

    value: Annotated[float, Field(description="Nats that asking is expected to save.")]
    threshold: Annotated[float, Field(description="Above it the language model is asked.")]
    history_rows: Annotated[int, Field(description="Rows of history that the CRM reads.")]
    item_rows: Annotated[int, Field(description="Training rows of the item.")]


class CandidateAnswer(Body):
    """The answer for one candidate."""

    item: str
    p: Annotated[float, Field(description="Probability that the user likes the item.")]
    p_crm: Annotated[float, Field(description="The calibrated CRM's.")]
    p_llm: Annotated[float | None, Field(description="The calibrated language model's, if asked.")]
    source: Literal["crm", "blend", "llm"]
    reason: Annotated[Reason, Field(description="Why that source.")]
    explanation: Explanation | None = None


class ScoreAnswer(Body):
    """Answers in the order of the candidates."""

    candidates: list[CandidateAnswer]
    degraded: Annotated[
        bool,
        Field(description="Whether the language model or the store was wanted and not there."),
    ]
    model: Annotated[str, Field(description="Checksum of the cascade that answered.")]
    request_id: str


class RecommendRequest(Body):
    """A ranking of items for one user."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user": "196", "k": 10}]})
    user: Id
    k: Annotated[int, Field(ge=1, le=1000)] = 10
    candidates: Annotated[
        list[Id] | None, Field(description="Items to rank; all by default.", max_length=100_000)
    ] = None
    exclude: Annotated[list[Id], Field(description="Items to leave out.", max_length=100_000)] = []
    exclude_seen: Annotated[bool, Field(description="Leave out items of the user's events.")] = True
    where: Annotated[
        dict[Text, Text],
        Field(
            description="Attributes that items must have, such as genres: Comedy.", max_length=20
        ),
    ] = {}
    history: Annotated[list[PastEvent] | None, Field(max_length=100_000)] = None
    deadline_ms: Annotated[int | None, Field(ge=1, le=600_000)] = None
    explain: bool = False


class RecommendAnswer(ScoreAnswer):
    """Items, best first."""


class NewEvent(Answered):
    """An interaction."""

    event_id: Annotated[Id, Field(description="Known by it: sent twice, it counts once.")]
    user: Id
    item: Id
    time: Annotated[Time | None, Field(description="By default now.")] = None


class EventsRequest(Body):
    """Interactions to add to histories."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"events": [{"event_id": "e1", "user": "196", "item": "50", "rating": 5}]}]
        }
    )
    events: Annotated[list[NewEvent], Field(min_length=1, max_length=10_000)]


class EventsAnswer(Body):
    """What became of them; they are on disk."""

    accepted: int
    duplicates: int


class PutItem(Body):
    """An item's title and attributes."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"title": "Dune: Part Two (2024)", "attributes": {"genres": ["Sci-Fi"]}}]
        }
    )
    title: Annotated[Text, Field(min_length=1)]
    attributes: Attributes = {}


class PutUser(Body):
    """A user's attributes."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"attributes": {"age": 31, "gender": "F"}}]}
    )
    attributes: Attributes = {}


class PutAnswer(Body):
    """Whether it is new; what is known already stays as it is."""

    added: bool


class EraseAnswer(Body):
    """Events of the user that were removed."""

    events: int


class ModelAnswer(Body):
    """What is served."""

    version: str
    crm: str
    llm: str
    llm_ready: bool
    llm_error: str | None
    router: Annotated[str, Field(description="The router's rule and its verdict.")]
    items: int
    users: int


class LoadModel(Body):
    """Another cascade to load beside the one in service."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"path": "runs/next", "mode": "shadow"}]}
    )
    path: Annotated[Text, Field(min_length=1, description="Directory of a run or a cascade.")]
    mode: Annotated[
        Literal["live", "shadow", "share"],
        Field(
            description="In place of the one in service; answers logged and not served; or for a "
            "share of the users."
        ),
    ] = "live"
    share: Annotated[
        float | None, Field(gt=0.0, lt=1.0, description="Of the users, by a hash of their ids.")
    ] = None

    @model_validator(mode="after")
    def _share_goes_with_its_mode(self) -> "LoadModel":
        if (self.share is None) == (self.mode == "share"):
            raise ValueError("share goes with mode 'share', and with no other")
        return self


class LoadedModel(Body):
    """A cascade that is loaded."""

    version: str
    role: Literal["live", "share", "shadow", "previous"]
    share: Annotated[float | None, Field(description="Of the users that it answers.")]


class ModelsAnswer(Body):
    """What is loaded."""

    models: list[LoadedModel]


class HealthAnswer(Body):
    """Whether the service lives, or is ready."""

    status: Literal["ok"]


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str
