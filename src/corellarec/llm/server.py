"""JSON over HTTP with a language model's server, with retries."""

import os
import random
import weakref
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import sleep
from typing import Any

import httpx

from corellarec.base.errors import ConfigError, RemoteError
from corellarec.llm.catalog import first_line

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0
CONNECT_TIMEOUT_S = 10.0


class MissingPathError(RemoteError):
    """The server has no such path, or does not implement it."""


class Server:
    """A server whose every request may be repeated.

    Args:
        url: Where it is, ``http://host:port``; a ``/v1`` at the end is left out.
        api_key_variable: The environment variable that holds the key, if the server wants one.
        timeout_s: Longest wait for the next bytes of an answer.
        retries: Repetitions of a request after a lost connection, a timeout, a 429 or a 5xx.

    Raises:
        ConfigError: If ``url`` is not such a URL, or the key cannot stand in a header.
    """

    def __init__(self, url: str, api_key_variable: str, timeout_s: float, retries: int) -> None:
        self.url = _checked_url(url)
        self.api_key_variable, self.retries = api_key_variable, retries
        key = os.environ.get(api_key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(f"the key in {api_key_variable} holds more than printable ASCII")
        self.has_key = bool(key)
        self.client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S), pool=None),
            limits=httpx.Limits(max_connections=None),
        )
        weakref.finalize(self, self.client.close)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The object that the server answers to a GET, or to a POST of ``body``.

        Between attempts it waits twice as long each time, less a random part, and at least as long
        as the server's ``Retry-After`` says.

        Raises:
            MissingPathError: If the server does not have ``path``.
            RemoteError: If it refuses, answers no object, or all attempts fail.
        """
        method, url = "GET" if body is None else "POST", self.url + path
        attempt = 0
        while True:
            attempt, wait = attempt + 1, 0.0
            try:
                response = self.client.request(method, url, json=body)
            except httpx.RequestError as error:
                reason = f"{type(error).__name__}: {first_line(error)}"
            else:
                if response.is_success:
                    return _object(response)
                reason = f"{response.status_code} {_message(response)}"
                if response.status_code in (404, 405, 501):
                    raise MissingPathError(
                        f"{url}: {reason}: check the URL and the server's version"
                    )
                if response.status_code != 429 and response.status_code < 500:
                    raise RemoteError(f"{url}: {reason}{self._hint(response.status_code)}")
                wait = _retry_after_s(response)
                reason += f" (asks to wait {wait:.0f} s)" if wait else ""
            if attempt > self.retries or wait > LONGEST_WAIT_S:
                raise RemoteError(
                    f"{url}: {reason}, attempt {attempt} of {self.retries + 1}: check that the "
                    f"server is up ({self.url}/health), its log, and the timeout"
                )
            backoff = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1))
            sleep(max(wait, backoff * random.uniform(0.5, 1)))

    def _hint(self, status: int) -> str:
        if status not in (401, 403):
            return ""
        variable = self.api_key_variable
        return f": check the key in {variable}" if self.has_key else f": set {variable} to the key"


def _checked_url(url: str) -> str:
    """``url`` without what may stand at its end."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"the language model's server: {first_line(error)}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo or parsed.query:
        raise ConfigError(
            "the language model's server: expected a URL such as http://localhost:8000, "
            f"found {parsed!r}"  # which hides a password
        )
    return url.rstrip("/").removesuffix("/v1")


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise RemoteError(
            f"{response.url}: expected a JSON object, found {response.text[:60]!r}: is it vLLM?"
        )
    return answer


def _message(response: httpx.Response) -> str:
    """The first line of the server's message."""
    try:
        words = response.json()
    except ValueError:
        words = response.text
    for key in ("error", "message", "detail"):
        if isinstance(words, dict) and key in words:
            words = words[key]
    lines = str(words).strip().splitlines()
    return lines[0][:300] if lines else response.reason_phrase


def _retry_after_s(response: httpx.Response) -> float:
    """Seconds that the server asks to wait; 0 where it gives none."""
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        return (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):  # TypeError: a date without a zone
        return 0.0
