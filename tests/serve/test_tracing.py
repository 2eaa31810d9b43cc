"""Spans of requests, to a collector that listens."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from services import client_of, wait_for_llm

from corellarec.serve.tracing import ENDPOINT

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def collector(monkeypatch):
    """Spans that arrive, by name."""
    spans = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found = ExportTraceServiceRequest.FromString(body)
            for resource in found.resource_spans:
                for scope in resource.scope_spans:
                    spans.update({span.name: span for span in scope.spans})
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        yield spans
        server.shutdown()
        thread.join()


def test_a_request_is_a_span_with_one_for_each_model(make_service, collector):
    service = make_service(threshold=-1e9)
    with client_of(service) as client:
        wait_for_llm(service)
        found = client.post(
            "/v1/score",
            json={"user": "17", "candidates": ["7", "8"]},
            headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"},
        )
        assert found.json()["candidates"][0]["reason"] == "asked"
    whole, crm, llm = (collector[name] for name in ("POST /v1/score", "crm", "llm"))
    assert whole.trace_id.hex() == TRACE
    assert crm.parent_span_id == llm.parent_span_id == whole.span_id
    said = {one.key: one.value for one in (*whole.attributes, *llm.attributes)}
    assert said["http.response.status_code"].int_value == 200
    assert said["request_id"].string_value == found.json()["request_id"]
    assert said["outcome"].string_value == "asked"
    assert said["rows"].int_value == 2
    assert not {"17", "7", "8"} & {one.string_value for one in said.values()}


def test_without_an_exporter_nothing_is_traced(make_service, monkeypatch):
    monkeypatch.delenv(ENDPOINT, raising=False)
    service = make_service()
    with service.tracing.span("nothing", {}) as span:
        assert span is None
