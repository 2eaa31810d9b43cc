"""Servers on loopback that misbehave as a function says."""

import contextlib
import ssl
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

Misbehave = Callable[["Handler"], object]


class Handler(BaseHTTPRequestHandler):
    """One connection; what it answers is up to the server's function."""

    protocol_version = "HTTP/1.1"
    server: "Loopback"  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """Any request."""
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        self.server.seen.append(f"{self.command} {self.path}\n{self.headers}")
        with contextlib.suppress(OSError):  # the other side has left
            self.server.answer(self)

    do_POST = do_CONNECT = do_GET  # noqa: N815 (names that the base class looks for)

    def send(self, status: int, content: bytes | str = b"", **headers: str) -> None:
        """A whole answer."""
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def raw(self, *pieces: bytes, pause_s: float = 0.0) -> None:
        """Bytes as they are, one after another; then the connection ends."""
        self.close_connection = True
        for piece in pieces:
            self.wfile.write(piece)
            self.wfile.flush()
            self.server.ended.wait(pause_s)


class Loopback(ThreadingHTTPServer):
    """A server; ``seen`` holds the head of every request.

    Args:
        answer: Called for every request.
        certificate: Files of a certificate and its key, for HTTPS.
    """

    daemon_threads = True

    def __init__(self, answer: Misbehave, certificate: tuple[str, str] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.seen, self.ended = answer, [], Event()
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "Loopback":
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a side that leaves is no error here."""

    def still(self, seconds: float = 30.0) -> bool:
        """Wait; whether the test still runs afterwards."""
        return not self.ended.wait(seconds)


def endless(handler: Handler, piece: bytes, seconds: float = 20.0, pause_s: float = 0.0) -> None:
    """The same bytes again and again, for so long."""
    handler.close_connection = True
    until = time.monotonic() + seconds
    while time.monotonic() < until and not handler.server.ended.wait(pause_s):
        handler.wfile.write(piece)
        handler.wfile.flush()
