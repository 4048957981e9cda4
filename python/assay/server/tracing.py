"""OpenTelemetry spans, where the extra `otel` is installed and an endpoint is given; otherwise nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from assay.errors import MissingExtra


class Span(Protocol):
    """The part of a span that is used here."""

    def set_attribute(self, key: str, value: Any) -> None:
        """Attach a fact; never a text of the request."""
        ...


class _NoSpan:
    def set_attribute(self, key: str, value: Any) -> None:
        """Nobody listens."""


class Tracing:
    """Opens one span per request. tracer: OpenTelemetry's, or None for no tracing."""

    _NOTHING = _NoSpan()

    def __init__(self, tracer: Any = None) -> None:
        self._tracer = tracer

    @classmethod
    def to_endpoint(cls, endpoint: str | None) -> Tracing:
        """Export over OTLP/HTTP; raises MissingExtra where OpenTelemetry is not installed."""
        if endpoint is None:
            return cls()
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as err:
            raise MissingExtra("--otlp-traces-endpoint needs: pip install 'assay[otel]'") from err
        provider = TracerProvider(resource=Resource.create({"service.name": "assay"}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        return cls(provider.get_tracer("assay.server"))

    @contextmanager
    def span(self, name: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """A span for one request, below the one its `traceparent` header names."""
        if self._tracer is None:
            yield self._NOTHING
            return
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {key: headers[key] for key in ("traceparent", "tracestate") if key in headers}
        parent = TraceContextTextMapPropagator().extract(carrier)
        # An exception's message may quote the request, so that only its type is noted.
        plain = {"record_exception": False, "set_status_on_exception": False}
        with self._tracer.start_as_current_span(name, context=parent, kind=SpanKind.SERVER, **plain) as span:
            try:
                yield span
            except Exception as err:
                span.set_attribute("error.type", type(err).__name__)
                raise
