"""Logs and traces: what happened to a request, and never what it said."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

import llms
from assay.server.logs import JsonFormatter, TextFormatter
from assay.server.settings import ServerSettings
from assay.server.tracing import Tracing
from served import serving, shared_client

SECRET = "the text that nobody may log"


def record(**facts: Any) -> logging.LogRecord:
    made = logging.LogRecord("assay.access", logging.INFO, "", 0, "request", (), None)
    made.facts = facts
    return made


def test_formats_are_lines_for_people_and_for_machines() -> None:
    line = TextFormatter().format(record(method="POST", status=200))
    assert line.endswith("INFO assay.access request method=POST status=200")
    forged = TextFormatter().format(record(request_id="a\n2026 INFO forged status=200", path="/a b"))
    assert forged.endswith(r'request_id="a\n2026 INFO forged status=200" path="/a b"')
    entry = json.loads(JsonFormatter().format(record(method="POST", status=200)))
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "info",
        "logger": "assay.access",
        "message": "request",
        "method": "POST",
        "status": 200,
    }
    try:
        raise ValueError("broken")
    except ValueError as err:
        failed = logging.LogRecord("a", logging.ERROR, "", 0, "%s", ("x",), (ValueError, err, err.__traceback__))
    assert "ValueError: broken" in json.loads(JsonFormatter().format(failed))["exception"]


def test_requests_are_logged_without_their_texts(caplog: pytest.LogCaptureFixture) -> None:
    client = shared_client(1)
    with caplog.at_level(logging.DEBUG):
        client.ok("/rerank", {"query": SECRET, "documents": [SECRET, SECRET]}, headers={"X-Request-Id": "abc"})
        client.error("/rerank", {"query": SECRET, "documents": [SECRET], "top_n": SECRET})
        client.get("/health")
    lines = [entry.facts for entry in caplog.records if entry.name == "assay.access"]  # type: ignore[attr-defined]
    good, bad = lines
    assert good["path"] == "/rerank" and good["status"] == 200 and good["ms"] > 0
    assert (good["model"], good["request_id"], good["items"], good["dialect"]) == ("m", "abc", 2, "vllm")
    assert good["tokens"] > 2
    assert (bad["status"], bad["error"]) == (400, "Bad Request")
    assert SECRET not in repr([(entry.getMessage(), vars(entry)) for entry in caplog.records])


def test_access_log_can_be_off(caplog: pytest.LogCaptureFixture) -> None:
    with serving(llms.shared(), ServerSettings(access_log=False)) as client, caplog.at_level(logging.DEBUG):
        client.ok("/classify", {"input": SECRET})
        assert not [entry for entry in caplog.records if entry.name == "assay.access"]


def test_spans_stand_below_the_callers_and_hold_no_text() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with serving(llms.shared(), tracing=Tracing(provider.get_tracer("test"))) as client:
        client.ok("/classify", {"input": [SECRET, "b"]}, headers={"traceparent": parent})
        client.ok("/classify", {"input": "alone"})
        client.error("/classify", {"input": "x", "truncate_prompt_tokens": SECRET})
    below, alone, failed = exporter.get_finished_spans()
    assert failed.attributes["error.type"] == "Refused" and SECRET not in failed.to_json()
    assert below.name == "classify"
    assert format(below.context.trace_id, "032x") == "0af7651916cd43dd8448eb211c80319c"
    assert below.parent is not None and format(below.parent.span_id, "016x") == "b7ad6b7169203331"
    assert below.attributes["assay.num_items"] == 2 and below.attributes["assay.num_tokens"] > 2
    assert alone.parent is None
    assert SECRET not in below.to_json()


def test_no_endpoint_means_no_tracing() -> None:
    with Tracing.to_endpoint(None).span("x", {}) as span:
        span.set_attribute("a", 1)
