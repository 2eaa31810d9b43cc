"""JSON over HTTP with a language model's server: typed, repeated, limited in time and size."""

import asyncio
import os
import random
from asyncio import sleep
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any, NamedTuple, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from corellarec.base.errors import ConfigError, RemoteError, one_line
from corellarec.base.network import certificates, open_client

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0
LARGEST_ANSWER = 4 << 20  # bytes: a hundred for each prompt and token; parsed, up to 400 MiB

T = TypeVar("T", bound=BaseModel)


class MissingPathError(RemoteError):
    """The server has no such path, or does not implement it."""


class Answer(NamedTuple):
    """What came back, whole.

    Args:
        status: Of HTTP.
        reason: The status in words.
        retry_after: That header, or nothing.
        content: The body.
    """

    status: int
    reason: str
    retry_after: str
    content: bytes


class Server:
    """A server whose every request may be repeated.

    A proxy of the environment is used for HTTPS alone, where it sees neither key nor prompts, and
    never for this machine.

    Args:
        url: Where it is, ``http://host:port``; a ``/v1`` at the end is left out.
        api_key_variable: The environment variable that holds the key, if the server wants one.
        timeout_s: Seconds that a request may take, with its repetitions and the waits between.
        retries: Repetitions of a request after a lost connection, a 429 or a 5xx.

    Raises:
        ConfigError: If ``url`` is not such a URL, the key cannot stand in a header, or the
            environment names certificates that cannot be read.
    """

    def __init__(self, url: str, api_key_variable: str, timeout_s: float, retries: int) -> None:
        self.url = _checked_url(url)
        self.api_key_variable, self.timeout_s, self.retries = api_key_variable, timeout_s, retries
        self._key = os.environ.get(api_key_variable, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError(f"the key in {api_key_variable} holds more than printable ASCII")
        self._certificates = certificates()

    def connect(self) -> httpx.AsyncClient:
        """Connections to it, for :meth:`ask`; to be closed.

        Raises:
            ConfigError: If the environment names a proxy that cannot be used.
        """
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        proxies = _may_use_proxy(httpx.URL(self.url))
        return open_client(self._certificates, headers, proxies=proxies)

    async def ask(
        self,
        client: httpx.AsyncClient,
        path: str,
        kind: type[T],
        body: dict[str, Any] | None = None,
    ) -> T:
        """What the server answers to a GET, or to a POST of ``body``.

        Between attempts it waits twice as long each time, less a random part, and at least as long
        as the server's ``Retry-After`` says.

        Args:
            client: From :meth:`connect`.
            path: Of the request, from ``/``.
            kind: Fields of the answer; those that it has beside these are left out.
            body: JSON to send.

        Raises:
            MissingPathError: If the server does not have ``path``.
            RemoteError: If it refuses, all attempts fail, the time is over, or the answer is not of
                that kind or longer than 4 MiB.
        """
        url, attempt, reason = self.url + path, 0, "no whole answer"
        try:
            async with asyncio.timeout(self.timeout_s):
                while True:
                    attempt, wait = attempt + 1, 0.0
                    try:
                        answer = await self._send(client, url, body)
                    except httpx.RequestError as error:
                        reason = f"{type(error).__name__}: {self._words(str(error))}"
                    else:
                        if 200 <= answer.status < 300:
                            return self._read(url, answer.content, kind)
                        wait = _retry_after_s(answer.retry_after)
                        reason = f"{answer.status} {self._message(answer)}"
                        self._check_repeatable(url, answer.status, reason)
                        reason += f" (asks to wait {wait:.0f} s)" if wait else ""
                    if attempt > self.retries or wait > LONGEST_WAIT_S:
                        break
                    backoff = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1))
                    await sleep(max(wait, backoff * random.uniform(0.5, 1)))
        except TimeoutError:
            reason += f" in {self.timeout_s:g} s"
        raise RemoteError(
            f"{url}: {reason}, attempt {attempt} of {self.retries + 1}: check that the "
            f"server is up ({self.url}/health), its log, and the timeout"
        )

    async def _send(
        self, client: httpx.AsyncClient, url: str, body: dict[str, Any] | None
    ) -> Answer:
        """One attempt."""
        method = "GET" if body is None else "POST"
        content = bytearray()
        async with client.stream(method, url, json=body) as response:
            async for piece in response.aiter_raw():
                content += piece
                if len(content) > LARGEST_ANSWER:
                    raise RemoteError(
                        f"{url}: the answer is longer than {LARGEST_ANSWER >> 20} MiB: is it vLLM?"
                    )
        wait = response.headers.get("Retry-After", "")
        return Answer(response.status_code, response.reason_phrase, wait, bytes(content))

    def _check_repeatable(self, url: str, status: int, reason: str) -> None:
        """Raise what another attempt would not change."""
        if status in (404, 405, 501):
            raise MissingPathError(f"{url}: {reason}: check the URL and the server's version")
        if status == 429 or status >= 500:
            return
        hint = ""
        if status in (401, 403):
            variable = self.api_key_variable
            hint = f": check the key in {variable}" if self._key else f": set {variable} to the key"
        raise RemoteError(f"{url}: {reason}{hint}")

    def _read(self, url: str, content: bytes, kind: type[T]) -> T:
        try:
            return kind.model_validate_json(content, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        found = (
            f"{place}: {first['msg']}"
            if place
            else f"expected a JSON object, found {self._words(_decoded(content), 60)!r}"
        )
        raise RemoteError(f"{url}: {found}: is it vLLM?")

    def _message(self, answer: Answer) -> str:
        """The server's message, as one line."""
        words = _decoded(answer.content).strip()
        try:
            error = _Refusal.model_validate_json(answer.content)
        except ValidationError:
            pass
        else:
            words = error.words() or words
        lines = words.splitlines()
        return self._words(lines[0] if lines else answer.reason)

    def _words(self, words: str, length: int = 300) -> str:
        """What a server says as one printable line without the key, which it may repeat."""
        return one_line(words.replace(self._key, "[the key]") if self._key else words, length)


class _Message(BaseModel):
    message: str = ""


class _Refusal(BaseModel):
    """How vLLM, OpenAI's and FastAPI's servers word an error."""

    error: _Message | str = ""
    message: str = ""
    detail: str = ""

    def words(self) -> str:
        error = self.error.message if isinstance(self.error, _Message) else self.error
        return (error or self.message or self.detail).strip()


def _decoded(content: bytes) -> str:
    return content[:2000].decode("utf-8", "replace")


def _checked_url(url: str) -> str:
    """``url`` without what may stand at its end; what may hold a key is neither taken nor shown."""
    remedy = "give one such as http://localhost:8000, and the key in the environment"
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"the language model's server: not a URL: {remedy}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"the language model's server: not a URL of HTTP: {remedy}")
    if parsed.userinfo or "?" in url or "#" in url:
        raise ConfigError(
            f"the language model's server: the URL of {parsed.host} has a user, a query or a "
            f"fragment: {remedy}"
        )
    return str(parsed).rstrip("/").removesuffix("/v1")


def _may_use_proxy(url: httpx.URL) -> bool:
    """Whether a proxy of the environment may be asked: it sees all of plain HTTP."""
    try:
        own = ip_address(url.host).is_loopback
    except ValueError:
        own = url.host == "localhost" or url.host.endswith(".localhost")
    return url.scheme == "https" and not own


def _retry_after_s(value: str) -> float:
    """Seconds that the server asks to wait; 0 where it gives none."""
    if value.isdecimal():
        return float(value)
    try:
        return (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):  # TypeError: a date without a zone
        return 0.0
