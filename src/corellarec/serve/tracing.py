"""Traces of requests for OpenTelemetry, where it is installed and an exporter is named.

``OTEL_EXPORTER_OTLP_ENDPOINT`` names it, as everywhere; without it nothing is traced.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from corellarec.base.errors import ConfigError

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


class Tracing:
    """Makes spans; no span holds an id of a user or an item.

    Args:
        provider: An OpenTelemetry tracer provider; None traces nothing.
    """

    def __init__(self, provider: Any = None) -> None:  # noqa: ANN401 (may not be installed)
        self._provider = provider
        self._tracer = provider.get_tracer("corellarec") if provider else None

    @classmethod
    def from_environment(cls) -> "Tracing":
        """Traces to the exporter that the environment names, if it names one.

        Raises:
            ConfigError: If it does, and OpenTelemetry is not installed.
        """
        if not os.environ.get(ENDPOINT):
            return cls()
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise ConfigError(
                f"{ENDPOINT} is set, and {error.name} is not installed: "
                "pip install 'corellarec[otel]', or unset it"
            ) from error
        name = os.environ.get("OTEL_SERVICE_NAME", "corellarec")
        provider = TracerProvider(resource=Resource.create({"service.name": name}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    @contextmanager
    def span(
        self,
        name: str,
        attributes: Mapping[str, str | int],
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[Any]:
        """A span, or nothing.

        Args:
            name: Of the span.
            attributes: Known when it begins.
            headers: Of a request, whose ``traceparent`` is continued; None within one.
        """
        if self._tracer is None:
            yield None
            return
        from opentelemetry.propagate import extract

        context = extract(dict(headers)) if headers is not None else None
        with self._tracer.start_as_current_span(name, context, attributes=dict(attributes)) as span:
            yield span

    def close(self) -> None:
        """Send what waits."""
        if self._provider:
            self._provider.shutdown()
