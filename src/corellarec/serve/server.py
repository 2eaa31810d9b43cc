"""Runs the service until a signal ends it."""

import gc
import ipaddress
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from corellarec.base.errors import ConfigError
from corellarec.serve.app import build_app
from corellarec.serve.gate import Gate
from corellarec.serve.keys import Key
from corellarec.serve.service import Service
from corellarec.serve.sessions import Sessions


def check_address(host: str, keys: Sequence[Key], file: str) -> None:
    """Refuse an address that others can reach while there are no keys.

    Raises:
        ConfigError: If it is one.
    """
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local and not keys:
        raise ConfigError(
            f"http.host = {host!r} can be reached from elsewhere, and {file} holds no keys: make "
            "one by `corellarec serve-key`, or listen on 127.0.0.1"
        )


def run(
    service: Service,
    keys: Sequence[Key],
    directory: Path | None = None,
    sessions: Sessions | None = None,
    started: Callable[[str], object] = lambda address: None,
) -> None:
    """Serve until SIGINT or SIGTERM; requests in work are then finished.

    Args:
        service: What answers.
        keys: Of callers.
        directory: Of the run that is served, for the explorer's figures.
        sessions: Of people, where the caller has a word for one.
        started: Called with the address once it listens.

    Raises:
        ConfigError: If the address cannot be listened on.
    """
    http = service.config.http
    app = build_app(service, keys, directory, sessions)
    config = uvicorn.Config(
        app,
        host=http.host,
        port=http.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(http.drain_s)),
        h11_max_incomplete_event_size=64 * 1024,
        limit_concurrency=None,
    )
    server = _Server(config, app, started)
    gc.collect()
    gc.freeze()  # what is loaded stays: a full collection of it would hold answers up
    try:
        server.run()
    except OSError as error:
        raise ConfigError(
            f"http.host {http.host}, http.port {http.port}: cannot listen ({error.strerror})"
        ) from error
    if not server.started:
        service.close()
        raise ConfigError(
            f"http.host {http.host}, http.port {http.port}: cannot listen: is the port in use?"
        )


class _Server(uvicorn.Server):
    """Says where it listens, and that it stops."""

    def __init__(self, config: uvicorn.Config, app: Gate, started: Callable[[str], object]) -> None:
        super().__init__(config)
        self._gate, self._started = app, started

    async def startup(self, sockets: Any = None) -> None:  # noqa: ANN401 (uvicorn's)
        """Listen, and print the address."""
        await super().startup(sockets)
        for server in self.servers:
            for one in server.sockets:
                host, port = one.getsockname()[:2]
                host = f"[{host}]" if ":" in host else host
                sys.stderr.write(f"serving on http://{host}:{port}\n")
                sys.stderr.flush()
                self._started(f"http://{host}:{port}")

    async def shutdown(self, sockets: Any = None) -> None:  # noqa: ANN401 (uvicorn's)
        """Refuse further requests, finish those in work."""
        self._gate.app.state.stopping = True  # pyright: ignore[reportFunctionMemberAccess]
        await super().shutdown(sockets)
