"""A server that speaks vLLM's protocol, scores with plain transformers, and fails on demand.

After the sources of vLLM: entrypoints/generate/generative_scoring/serving.py,
entrypoints/openai/completion, entrypoints/openai/models and docs/usage/security.md.
"""

import contextlib
import json
import math
import socket
import time
from collections import defaultdict, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import torch

BASE, ADAPTER = "org/base", "corellarec"


class VllmServer(ThreadingHTTPServer):
    """Serves a causal language model as a base model and, the same one, as an adapter.

    Attributes:
        requests: ``(path, body, headers)`` of every request.
        faults: For each path what comes of the next requests: ``"drop"``, ``"stall"``, or
            ``(status, body, headers)``; None is no fault.
        alter: Called with a path and an answer before the answer is sent.
        missing: Paths that the server does not have.
        cut: The tokens of a prompt that the server reads, None for ``max_model_len - 1``.
        knows_logprob_token_ids: Whether ``/v1/completions`` gives the tokens it is asked for.
    """

    daemon_threads = False  # none may compute while the interpreter ends

    def __init__(self, model, max_model_len=4096, key=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.max_model_len, self.key = model, max_model_len, key
        self.requests, self.lock, self.connections = [], Lock(), []
        self.faults, self.missing = defaultdict(deque), set()
        self.alter = lambda path, answer: None
        self.cut, self.knows_logprob_token_ids = None, True
        self.thread = Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.thread.join()
        for connection in self.connections:
            with contextlib.suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()  # waits for the handlers

    def process_request(self, request, client_address):
        self.connections.append(request)
        super().process_request(request, client_address)

    def asked(self, path):
        """The bodies of all requests to a path."""
        return [body for at, body, _ in self.requests if at == path]

    def logprobs(self, ids):
        with self.lock, torch.inference_mode():
            logits = self.model(input_ids=torch.tensor([ids])).logits[0, -1].float()
        return logits.log_softmax(-1)

    def models(self):
        base = {"id": BASE, "object": "model", "parent": None, "max_model_len": self.max_model_len}
        adapter = {"id": ADAPTER, "object": "model", "parent": BASE, "max_model_len": None}
        return {"object": "list", "data": [base, adapter]}

    def generative_scoring(self, body):
        prompts = [(body["query"] + item)[: self.max_model_len - 1] for item in body["items"]]
        if self.cut is not None:
            prompts = [ids[: self.cut] for ids in prompts]
        data = []
        for index, ids in enumerate(prompts):
            given = self.logprobs(ids)[body["label_token_ids"]].tolist()
            weights = [math.exp(logprob - max(given)) for logprob in given]
            score = weights[0] / sum(weights) if body["apply_softmax"] else math.exp(given[0])
            data.append({"index": index, "object": "score", "score": score})
        return {"object": "list", "data": data, "usage": usage(prompts)}

    def completions(self, body):
        prompts = body["prompt"]
        longest = max(len(ids) for ids in prompts) + body["max_tokens"]
        if longest > self.max_model_len:
            return error(400, f"maximum context length is {self.max_model_len}\nsecond line")
        if self.cut is not None:
            prompts = [ids[: self.cut] for ids in prompts]
        choices = []
        for index, ids in enumerate(prompts):
            logprobs = self.logprobs(ids)
            tokens = logprobs.topk(body["logprobs"]).indices.tolist()
            if self.knows_logprob_token_ids and "logprob_token_ids" in body:
                tokens = [int(logprobs.argmax()), *body["logprob_token_ids"]]
            assert body["return_tokens_as_token_ids"], "only ids are told apart for sure"
            given = {f"token_id:{token}": float(logprobs[token]) for token in tokens}
            choices.append({"index": index, "text": "", "logprobs": {"top_logprobs": [given]}})
        return {"object": "text_completion", "choices": choices, "usage": usage(prompts)}


def usage(prompts):
    read = sum(len(ids) for ids in prompts)
    return {"prompt_tokens": read, "completion_tokens": len(prompts)}


def error(status, message):
    return status, {"error": {"message": message, "type": "BadRequestError", "code": status}}, {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: VllmServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        self.respond(None)

    def do_POST(self):
        self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def respond(self, body):
        server, path = self.server, self.path
        server.requests.append((path, body, dict(self.headers)))
        fault = server.faults[path].popleft() if server.faults[path] else None
        if fault == "drop":
            self.close_connection = True
            return
        if fault == "stall":
            time.sleep(0.4)
        answer = fault if isinstance(fault, tuple) else self.answer(path, body)
        status, content, headers = answer if isinstance(answer, tuple) else (200, answer, {})
        if status == 200:
            server.alter(path, content)
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        data = text.encode() if isinstance(text, str) else text
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer(self, path, body):
        server = self.server
        given = self.headers.get("Authorization")
        # A server's key guards /v1 only.
        if server.key and path.startswith("/v1") and given != f"Bearer {server.key}":
            return 401, {"error": "Unauthorized"}, {}
        if path in server.missing:
            return 404, {"detail": "Not Found"}, {}
        if body and body["model"] not in (BASE, ADAPTER):
            return error(404, f"The model `{body['model']}` does not exist.")
        match path:
            case "/v1/models":
                return server.models()
            case "/generative_scoring":
                return server.generative_scoring(body)
            case "/v1/completions":
                return server.completions(body)
        return 404, {"detail": "Not Found"}, {}
