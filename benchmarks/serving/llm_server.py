"""A language model's server without a language model: it answers, is slow, hangs, or is gone.

It speaks what the service needs of vLLM's protocol, so that what is measured is the service.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WARM_UP = 40  # prompts that the service asks when it starts; these are answered at once


class Server(ThreadingHTTPServer):
    """The server.

    Attributes:
        delay_s: Seconds before each answer.
        asked: Prompts that came.
    """

    daemon_threads = True

    def __init__(self, delay_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.delay_s, self.asked = delay_s, 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Print nothing: the service ends a connection whose answer comes too late."""

    def end(self) -> None:
        """Stop; connections are refused from now on."""
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body after its headers waits 40 ms for their ACK
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self._answer({"data": [{"id": "corellarec", "max_model_len": 100_000}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += len(body["items"])
        if self.server.asked > WARM_UP:
            time.sleep(self.server.delay_s)
        self._answer({"data": [{"index": i, "score": 0.6} for i in range(len(body["items"]))]})

    def _answer(self, value: Any) -> None:  # noqa: ANN401
        text = json.dumps(value).encode()
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
        except OSError:  # the service did not wait
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""
