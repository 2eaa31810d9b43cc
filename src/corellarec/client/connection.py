"""What a connection to the service may be, and what becomes of a call that fails."""

import contextlib
import random
import time
from collections.abc import Iterator

import httpx

from corellarec.base.errors import ConfigError
from corellarec.client.values import ServiceError, UnavailableError

FIRST_WAIT_S = 0.1  # after a lost connection; then twice as long each time


class Attempts:
    """How long one call may still take, and whether it is repeated.

    Args:
        retries: Repetitions at most.
        timeout_s: Seconds that the call may take in all.
    """

    def __init__(self, retries: int, timeout_s: float) -> None:
        self._retries, self._made = retries, 0
        self._end = time.monotonic() + timeout_s

    def left_s(self) -> float:
        """Seconds that are left; more than 0, for what takes a timeout."""
        return max(self._end - time.monotonic(), 0.001)

    def is_over(self) -> bool:
        """Whether no time is left."""
        return time.monotonic() >= self._end

    def wait_s(self, error: ServiceError) -> float:
        """Seconds to wait before the call is made again.

        Args:
            error: How it ended.

        Raises:
            ServiceError: That error, where another attempt is not allowed or would be too late.
        """
        wait = error.retry_after_s
        if error.status is None:
            wait = FIRST_WAIT_S * 2**self._made * random.uniform(0.5, 1)
        elif error.status not in (429, 503):
            wait = None
        if wait is None or self._made >= self._retries or wait >= self.left_s():
            raise error
        self._made += 1
        return wait


@contextlib.contextmanager
def as_unavailable(url: str, timeout_s: float) -> Iterator[None]:
    """Httpx's errors as the client's.

    Args:
        url: Of the service, for the message.
        timeout_s: Seconds that a call may take, likewise.

    Raises:
        UnavailableError: If there is no whole answer.
    """
    try:
        yield
    except (httpx.TimeoutException, TimeoutError) as error:
        raise UnavailableError(f"{url}: no answer in {timeout_s:g} s") from error
    except httpx.RequestError as error:
        raise UnavailableError(f"{url}: {type(error).__name__}: {error}") from error


def checked_url(base_url: str) -> str:
    """The service's URL without a slash at its end.

    Raises:
        ConfigError: If it is no URL of HTTP, or holds a user, a query or a fragment.
    """
    remedy = "give one such as http://127.0.0.1:8000, and the key as key="
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"base_url: not a URL: {remedy}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"base_url: not a URL of HTTP: {remedy}")
    if url.userinfo or "?" in base_url or "#" in base_url:
        raise ConfigError(f"base_url: has a user, a query or a fragment: {remedy}")
    return str(url).rstrip("/")


def headers_of(key: str | None) -> dict[str, str]:
    """Headers of every request.

    Raises:
        ConfigError: If the key cannot stand in a header.
    """
    if key is None:
        return {}
    if not (key and key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError("key: holds more than printable ASCII, or nothing")
    return {"Authorization": f"Bearer {key}"}


def checked_limits(timeout_s: float, retries: int) -> tuple[float, int]:
    """The limits of a call.

    Raises:
        ConfigError: If they cannot be used.
    """
    if not timeout_s > 0:
        raise ConfigError(f"timeout_s must be above 0, found {timeout_s:g}")
    if retries < 0:
        raise ConfigError(f"retries must be 0 or more, found {retries}")
    return timeout_s, retries
