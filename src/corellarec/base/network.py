"""Work with the network that ends in time, whatever the other side does."""

import asyncio
import ssl
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from corellarec.base.errors import ConfigError

if TYPE_CHECKING:
    import httpx  # it takes a while to import

CONNECT_TIMEOUT_S = 10.0

T = TypeVar("T")


def run_within(seconds: float, job: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; what it waits for is cancelled when its time is over.

    Unlike a limit for each read, this ends a server that sends a byte now and then. It runs in the
    calling thread or, where an event loop runs there already (a notebook), in another one.

    Args:
        seconds: How long it may take.
        job: What to run.

    Raises:
        TimeoutError: If it takes longer.
    """

    async def limited() -> T:
        async with asyncio.timeout(seconds):
            return await job

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(limited())
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, limited()).result()


def certificates() -> ssl.SSLContext:
    """Whom HTTPS trusts: certifi's authorities, or those of SSL_CERT_FILE or SSL_CERT_DIR.

    Raises:
        ConfigError: If the environment names certificates that cannot be read.
    """
    import httpx

    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise ConfigError(
            f"the certificates of SSL_CERT_FILE or SSL_CERT_DIR cannot be read ({error}): unset "
            "it, or name a file in PEM"
        ) from error


def open_client(
    trusted: ssl.SSLContext, headers: Mapping[str, str] | None = None, *, proxies: bool
) -> "httpx.AsyncClient":
    """A client without limits but for the time to connect; to be closed.

    Args:
        trusted: From :func:`certificates`.
        headers: Of every request. Answers come uncompressed, so that their size is known while
            they are read.
        proxies: Whether to use those of the environment.

    Raises:
        ConfigError: If the environment names a proxy that cannot be used.
    """
    import httpx

    try:
        return httpx.AsyncClient(
            headers={"Accept-Encoding": "identity", **(headers or {})},
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=None),
            verify=trusted,
            trust_env=proxies,
        )
    except (httpx.InvalidURL, ValueError, ImportError):  # its URL may hold a password
        raise ConfigError(
            "a proxy of the environment (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY) cannot be used: give "
            "http://host:port, unset it, or name the server in NO_PROXY"
        ) from None
