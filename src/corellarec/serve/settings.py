"""Settings of the service: ``serve.toml``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ValidationError

from corellarec.base.errors import ConfigError
from corellarec.base.inputs import read_toml
from corellarec.config.explain import explain
from corellarec.config.section import Count, Positive, Range, Section, Share, Tokens

Milliseconds = Annotated[int, Range(ge=1, le=600_000)]
Seconds = Annotated[float, Range(gt=0.0, le=86_400.0)]
PerSecond = Annotated[float, Range(gt=0.0, le=1e6)]


class HttpSettings(Section):
    """The address, and what one client may take."""

    host: str = "127.0.0.1"
    """Address to listen on; any but a loopback address needs keys."""
    port: Annotated[int, Range(ge=0, le=65_535)] = 8000
    """Port to listen on; 0 takes a free one."""
    max_body_kb: Positive = 1024
    """Largest request body, KiB."""
    body_timeout_s: Seconds = 5.0
    """Time for a client to send its body."""
    max_in_flight: Positive = 256
    """Requests in work at once; a further one gets 429."""
    requests_per_s: PerSecond | None = None
    """Requests a second of one key, or of all callers where there are no keys."""
    drain_s: Seconds = 10.0
    """Time for requests in work to end when the service stops."""
    log_requests: bool = True
    """Whether each request is a line of the log."""
    log_ids: bool = False
    """Whether that line names the user."""


class AnswerSettings(Section):
    """What a request may ask, and how long it takes at most."""

    deadline_ms: Milliseconds = 50
    """Time to answer ``/v1/score``, where the request names none."""
    recommend_deadline_ms: Milliseconds = 500
    """Time to answer ``/v1/recommend``, where the request names none."""
    max_deadline_ms: Milliseconds = 30_000
    """Longest time that a request may name."""
    max_candidates: Positive = 1000
    """Candidates in one request."""
    max_history: Positive = 5000
    """Rows of a history sent with a request; of a stored one, its newest rows that are read."""
    batch_rows: Positive = 4096
    """Candidates that the CRM scores at once."""
    users_kept: Positive = 100_000
    """Users whose history is kept in memory."""


class LlmSettings(Section):
    """Where the language model runs, and when it is not asked."""

    place: Literal["local", "server", "off"] = "local"
    """In this process, on a vLLM server, or nowhere."""
    server: str | None = None
    """URL of the vLLM server."""
    server_model: str = "corellarec"
    """The server's name for the tuned model."""
    cache_salt: str | None = None
    """Keeps the server's cached prompts to this service."""
    queue_tokens: Tokens = 100_000
    """Tokens that may wait; rows that would bring more have the CRM's answer."""
    tokens_per_batch: Tokens = 4096
    """Tokens of several requests scored at once, where users have no states."""
    states_mb: Count = 512
    """Memory for users' states, MiB; 0 reads every history anew."""
    wait_s: Annotated[float, Range(ge=0.0, le=3600.0)] = 30.0
    """Time that the start of the service waits for it; it is loaded in the background after."""
    failures: Positive = 5
    """Calls in a row that fail, or end too late, after which it is not asked for a while."""
    pause_s: Seconds = 10.0
    """That while at most; it begins with a sixteenth, and doubles with each failure."""


class BudgetSettings(Section):
    """How many rows the language model may be asked about."""

    share: Share | None = None
    """Of all rows scored; by default the budget of the cascade's router."""
    rows_per_s: PerSecond | None = None
    """Rows a second, in place of a share."""
    burst: Positive = 1000
    """Unspent rows that are kept, at most."""


class DecisionSettings(Section):
    """The log of decisions, for ``corellarec estimate``."""

    directory: str | None = None
    """Where Parquet files are written; none are by default."""
    explored_share: Annotated[float, Range(ge=0.0, le=0.5)] = 0.01
    """Share of rows decided against the threshold, on either side of it."""
    days_kept: Positive = 30
    """Older files are deleted."""


class ExplorerSettings(Section):
    """The pages for people."""

    rows_per_min: Positive = 600
    """Rows a minute that people may ask the language model about; the budget is not charged."""
    pseudonyms: bool = False
    """Whether pages and their addresses call users by pseudonyms in place of ids."""


class ServeConfig(Section):
    """All settings of the service."""

    store: str | None = None
    """SQLite file or ``postgresql://`` URL; by default ``service/store.sqlite`` in the run."""
    keys: str | None = None
    """File of keys; by default ``service/keys.json`` in the run."""
    http: HttpSettings = HttpSettings()
    answer: AnswerSettings = AnswerSettings()
    llm: LlmSettings = LlmSettings()
    budget: BudgetSettings = BudgetSettings()
    decisions: DecisionSettings = DecisionSettings()
    explorer: ExplorerSettings = ExplorerSettings()


def load_serve_config(path: Path | None, changes: Mapping[str, Any]) -> ServeConfig:
    """Settings of a TOML file, with changes on top.

    Args:
        path: The file; without it, the defaults.
        changes: By name, such as ``http.port``; those that are None are left out.

    Raises:
        ConfigError: If the file cannot be read, or a setting is not allowed.
    """
    tree = read_toml(path) if path else {}
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        place = tree.setdefault(section, {}) if section else tree
        if value is not None and isinstance(place, dict):
            place[key] = value
    try:
        config = ServeConfig.model_validate(tree)
    except ValidationError as error:
        lines = [explain(detail, ServeConfig) for detail in error.errors()]
        raise ConfigError(f"{path or 'serve'}: " + "; ".join(lines)) from error
    if (config.llm.place == "server") != (config.llm.server is not None):
        raise ConfigError("llm.place = 'server' and llm.server = 'http://host:port' go together")
    return config
