"""What clients can do wrong: every body gets an answer, none of them a 5xx, and no answer tells of this machine."""

from __future__ import annotations

import json
import random
from typing import Any

import orjson
import pytest

import llms
from assay import errors
from assay.server.errors import failure_of, refuse, schema_failure, scrubbed
from assay.server.settings import RequestPolicy, ServerSettings
from served import serving, shared_client

PATHS = (
    *("/classify", "/pooling", "/tokenize", "/detokenize", "/decode"),
    *("/invocations", "/predict", "/embeddings", "/"),
)
SCORE_PATHS = ("/score", "/rerank", "/v2/rerank", "/invocations", "/")
HOSTILE = [
    b"",
    b"nonsense",
    b"[]",
    b"null",
    b"5",
    b'"text"',
    b"{",
    b'{"input": NaN}',
    b'{"input": Infinity}',
    b'{"input": "\\ud800"}',
    b'{"input": "\xff\xfe"}',
    b'{"input": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"input": ' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"input": "x", "documents": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
    b'{"messages": [{"role": "user", "content": ' + b"[" * 900 + b"]" * 900 + b"}]}",
    b'{"query": "q", "documents": [{"content": [{"type": "text", "text": "a", "x": '
    + b"[" * 800
    + b"]" * 800
    + b"}]}]}",
    b'{"input": [123456789012345678901234567890]}',
    b'{"input": [9223372036854775807, -9223372036854775808, 18446744073709551615]}',
    b'{"input": [1e308, 2.5]}',
    b'{"input": 1e999}',
    b'{"input": "a", "input": 5}',
    b'{"input": "x", "truncate_prompt_tokens": 99999999999999999999999}',
    b'{"input": "x", "truncate_prompt_tokens": 0}',
    b'{"input": "x", "timeout_ms": 9999999999999999999999999}',
    b'{"input": "x", "model": 5}',
    b'{"input": "x", "model": "\\u0000"}',
    b'{"input": "x", "request_id": "\\r\\nset-cookie: a=b"}',
    b'{"input": "x", "request_id": "\\ud83d\\ude00"}',
    b'{"input": [true, false]}',
    b'{"input": [["a"]]}',
    b'{"input": ["a", 5, null]}',
    b'{"input": "x", "top_k": 99999999999999999999}',
    b'{"input": "x", "threshold": -1e308, "top_k": 1}',
    b'{"input": "x", "long_input": {"stride": 99999999999999999999}}',
    b'{"input": [], "long_input": {}}',
    b'{"input": [1, 2], "long_input": {}}',
    b'{"input": "", "long_input": {}}',
    b'{"messages": []}',
    b'{"messages": [{}]}',
    b'{"messages": [{"role": 5}]}',
    b'{"messages": [{"prompt": "x"}]}',
    b'{"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"messages": 1, "tokenize": 2}}',
    b'{"query": {"content": []}, "documents": [{"content": []}]}',
    b'{"query": null, "documents": null}',
    b'{"query": "q", "documents": [], "top_n": 5}',
    b'{"query": "q", "documents": ["a"], "chat_template_kwargs": {"chat_template": "x"}}',
    b'{"query": "q", "documents": ["a"], "long_input": {"mode": "other"}}',
    b'{"tokens": [-1]}',
    b'{"tokens": [99999999999]}',
    b'{"tokens": [99999999999999999999999]}',
    b'{"prompt": ""}',
    b'{"messages": [{"role": "user", "content": "x"}], "tools": [' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"]}",
    b'{"messages": [{"role": "user", "content": "x"}], "tools": "x", "chat_template_kwargs": {"tools": 5}}',
    b'{"inputs": "\\u0000\\ud83d\\ude00", "prompt_name": "\\u0000"}',
    b'{"inputs": "x", "add_special_tokens": "maybe"}',
    b'{"ids": [0, 4294967295, 4294967296]}',
    b'{"ids": [[], [-1]]}',
    b'{"inputs": "x", "parameters": null}',
    b'{"inputs": "x", "parameters": {"top_k": 0}}',
    b'{"inputs": [{"text": "a", "text_pair": 5}, "b"], "parameters": {}}',
    b'{"inputs": [], "parameters": {"function_to_apply": "softmax", "truncation": false}}',
    b'{"inputs": "x", "parameters": {"function_to_apply": "softmax"}}',
    b'{"inputs": "x", "parameters": {"candidate_labels": ["a"], "x": ' + b"[" * 900 + b"]" * 900 + b"}}",
    b'{"ids": [1.5, true, null, "a"]}',
    b'{"ids": ' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"query": "q", "documents": ["a"], "raw_scores": true, "use_activation": true}',
    b'{"query": "q", "documents": ["a"], "raw_scores": "x", "top_k": 99999999999999999999}',
    b'{"query": "q", "documents": ["a"], "top_k": -1, "top_n": 1.5}',
    b'{"query": "q", "documents": ["a"], "long_input": {}, "max_tokens_per_doc": 9223372036854775807}',
    b'{"query": "q", "documents": ["a"], "long_input": {}, "max_tokens_per_query": -1, "padding": "max_length"}',
    b'{"query": "q", "documents": ["a"], "long_input": {}, "max_tokens_per_doc": 18446744073709551616}',
    b'{"input": "x", "embed_dtype": "fp8_e4m3", "encoding_format": "base64", "endianness": "big"}',
    b'{"input": "x", "softmax": {}, "activation": []}',
    b'{"inputs": [["a", "b"], []]}',
    b'{"queries": [], "documents": []}',
    b'{"text_1": {}, "text_2": [[]]}',
    b'{"input": "x", "encoding_format": "bytes", "model": "m"}',
]


@pytest.mark.parametrize("num_labels", [3, 1])
def test_hostile_bodies_never_give_a_5xx(num_labels: int) -> None:
    client = shared_client(num_labels)
    for path in PATHS if num_labels == 3 else SCORE_PATHS:
        for body in HOSTILE:
            response = client.post(path, content=body)
            assert response.status_code < 500, (path, body[:80], response.text)
            if response.headers["content-type"] == "application/json":
                orjson.loads(response.content)  # never NaN, never broken


def test_mutated_bodies_never_give_a_5xx() -> None:
    """Random damage to good bodies; the seed is fixed, so that a failure can be repeated."""
    rng = random.Random(5)
    values: list[Any] = [None, True, -1, 0, 2**70, 1.5, "", "x" * 300, [], {}, [[]], [1], ["a"], {"content": 1}, "\x00"]
    good = [
        {"input": ["a", "b"], "truncate_prompt_tokens": 5, "use_activation": True, "top_k": 1, "model": "m"},
        {"query": "q", "documents": ["a", {"text": "b"}], "top_n": 1, "max_tokens_per_doc": 3, "long_input": {}},
        {"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": True, "chat_template_kwargs": {}},
        {"inputs": [["a", "b"]], "truncate": True, "raw_scores": False},
        {
            "query": "q",
            "documents": ["a", "b"],
            "top_k": 1,
            "raw_scores": True,
            "padding": "max_length",
            "long_input": {},
        },
        {"inputs": ["a", "b"], "add_special_tokens": False, "prompt_name": None},
        {"inputs": [{"text": "a", "text_pair": "b"}, "c"], "parameters": {"top_k": 1, "function_to_apply": "sigmoid"}},
        {"ids": [[5, 6], [7]], "skip_special_tokens": False},
        {"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]},
    ]
    clients = {3: shared_client(3), 1: shared_client(1)}
    for _ in range(500):
        body: dict[str, Any] = dict(rng.choice(good))
        for _ in range(rng.randint(1, 2)):
            body[rng.choice([*body, "normalize", "task", "timeout_ms", "padding"])] = rng.choice(values)
        path = rng.choice([*PATHS, *SCORE_PATHS])
        response = clients[rng.choice([1, 3])].post(path, content=json.dumps(body).encode())
        assert response.status_code < 500, (path, body, response.text)


def test_malformed_json_says_where() -> None:
    error = shared_client().error("/classify", None, content=b'{"input": }')
    assert error["type"] == "Bad Request" and "json_invalid" in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b'{"input": NaN}', b'{"input": "\\ud800"}', b"x" * 200_000])
def test_malformed_json_of_invocations_is_told_in_its_own_words(body: bytes) -> None:
    error = shared_client().error("/invocations", None, content=body)
    assert error["message"].startswith("JSON decode error: ") and error["type"] == "Bad Request"


@pytest.mark.parametrize("media_type", ["text/plain", "", "application/x-www-form-urlencoded"])
def test_other_media_types_are_refused(media_type: str) -> None:
    error = shared_client().error("/classify", None, content=b"{}", headers={"content-type": media_type})
    assert "Unsupported Media Type: Only 'application/json' is allowed" in error["message"]
    body = b'{"input": "x"}'
    good = {"content-type": "Application/JSON; charset=utf-8"}
    assert shared_client().post("/classify", content=body, headers=good).status_code == 200


def test_bodies_above_the_limit_are_a_413() -> None:
    settings = ServerSettings(requests=RequestPolicy(max_body_bytes=1000))
    with serving(llms.shared(), settings) as client:
        assert client.error("/classify", {"input": "x" * 1000}, 413)["type"] == "RequestTooLargeError"

        async def chunks() -> Any:
            for _ in range(20):
                yield b"x" * 100

        assert client.error("/classify", None, 413, content=chunks())["type"] == "RequestTooLargeError"
        client.ok("/classify", {"input": ["x"] * 150})


def test_schema_failures_are_bounded() -> None:
    entries = [{"type": "t", "loc": ("body", "input", i), "msg": "m", "input": "y" * 999} for i in range(25)]
    failure = schema_failure(entries)
    lines = failure.message.split("\n")
    assert lines[0] == "25 validation errors:" and lines[-1] == "  ...and 15 more errors" and len(lines) == 12
    assert all(len(line) <= 1010 for line in lines) and "y" * 201 not in failure.message
    assert failure.param == "body.input.0"
    single = schema_failure([{"type": "t", "loc": (), "msg": "m", "input": [1, 2, 3]}])
    assert single.message.startswith("1 validation error:") and "<list of 3 items>" in single.message


def test_a_list_wrong_throughout_is_answered_at_once() -> None:
    error = shared_client().error("/classify", {"input": [None] * 200_000})
    assert len(error["message"]) < 3000


def test_messages_tell_nothing_of_this_machine() -> None:
    text = (
        "Traceback (most recent call last):\n"
        '  File "/usr/lib/python3/x.py", line 3, in f\n'
        "cannot read /opt/models/secret/config.json: <Foo object at 0x7f0000abcd>, use application/json or /rerank"
    )
    assert scrubbed(text) == "cannot read <path>: <Foo object>, use application/json or /rerank"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.ValidationError("bad", "input", 5), 400, "BadRequestError"),
        (ValueError("bad"), 400, "BadRequestError"),
        (OverflowError("bad"), 400, "BadRequestError"),
        (errors.OverloadedError("full", 1.5), 429, "OverloadedError"),
        (errors.EngineDrainingError("stopping", 1.0), 503, "ServiceUnavailableError"),
        (errors.EngineDeadError("dead"), 503, "ServiceUnavailableError"),
        (errors.DeadlineExceededError("late"), 408, "DeadlineExceededError"),
        (errors.NonFiniteError("NaN"), 500, "NonFiniteError"),
        (errors.BatchMemoryError("memory"), 503, "OutOfMemoryError"),
        (NotImplementedError("no"), 501, "NotImplementedError"),
        (refuse("gone", status=410, kind="Gone"), 410, "Gone"),
        (KeyError("/etc/secret/file"), 500, "InternalServerError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_exception_has_its_status(error: Exception, status: int, kind: str) -> None:
    failure = failure_of(error)
    assert (failure.status, failure.kind) == (status, kind)
    assert "secret" not in failure.message


def test_retry_after_is_what_the_engine_measured() -> None:
    assert failure_of(errors.OverloadedError("full", 2.25)).retry_after_s == 2.25
    assert failure_of(errors.OverloadedError("full", 2.25), overload_status=503).status == 503


def test_non_finite_results_are_a_typed_error() -> None:
    with llms.load() as llm, serving(llm) as server:
        broken = llm.session.model.run

        def poisoned(batch: Any, *args: Any) -> Any:
            results = broken(batch, *args)
            return [result * float("nan") for result in results]

        llm.session.model.run = poisoned  # type: ignore[method-assign]
        for path, body in (
            ("/classify", {"input": ["a", "b"]}),
            ("/pooling", {"input": "a", "encoding_format": "base64"}),
        ):
            error = server.error(path, body, 500)
            assert error["type"] == "NonFiniteError" and "NaN" in error["message"]
        llm.session.model.run = broken  # type: ignore[method-assign]
        server.ok("/classify", {"input": "a"})
