"""Under load and over time: admission, deadlines, priorities, cancelling, readiness, draining, death, metrics."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import llms
from assay import LLM, ops
from assay.engine import Job
from assay.server import spare_memory
from assay.server.body import LARGE_BODY
from assay.server.core_offers import SHORT_BODY
from assay.server.settings import RequestPolicy, ServerSettings
from served import Client, serving, shared_client


@contextmanager
def held(llm: LLM) -> Iterator[threading.Event]:
    """The model waits in its next batch until the event is set; it is set when the block ends."""
    gate, model = threading.Event(), llm.session.model
    run = model.run

    def waiting(*args: Any) -> Any:
        assert gate.wait(30)
        return run(*args)

    model.run = waiting  # type: ignore[method-assign]
    try:
        yield gate
    finally:
        gate.set()
        model.run = run  # type: ignore[method-assign]


def start(client: Client, body: dict[str, Any], path: str = "/classify") -> Any:
    """A request under way; `.result(s)` gives its response."""
    return asyncio.run_coroutine_threadsafe(client.http.post(path, json=body), client.loop)


def until(condition: Any, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_overload_is_a_429_with_the_time_to_wait() -> None:
    with llms.load(max_queued_tokens=300) as llm, serving(llm) as client:
        long = {"input": ["word " * 25] * 5}
        with held(llm):
            first = [start(client, long) for _ in range(2)]
            until(lambda: llm.session.engine.stats().num_jobs == 2)
            response = client.post("/classify", long)
        assert response.status_code == 429, response.text
        assert response.json()["error"]["type"] == "OverloadedError"
        assert int(response.headers["retry-after"]) >= 1 and int(response.headers["retry-after-ms"]) >= 1
        assert [future.result(30).status_code for future in first] == [200, 200]
        client.ok("/classify", {"input": ["word " * 25] * 400})  # an idle server takes what it can run
        page = client.get("/metrics").text
        assert 'assay_rejected_requests_total{model_name="m",reason="OverloadedError"} 1.0' in page


def test_overload_status_can_be_503() -> None:
    settings = ServerSettings(requests=RequestPolicy(overload_status=503))
    with llms.load(max_queued_tokens=50) as llm, serving(llm, settings) as client, held(llm):
        first = start(client, {"input": "word " * 25})
        second = start(client, {"input": "word " * 25})
        until(lambda: llm.session.engine.stats().num_jobs == 2)
        response = client.post("/classify", {"input": "word " * 25})
        assert response.status_code == 503 and "retry-after" in response.headers
        del first, second


def test_deadlines_are_a_408() -> None:
    settings = ServerSettings(requests=RequestPolicy(default_timeout_ms=60))
    with llms.load() as llm, serving(llm, settings) as client, held(llm) as gate:
        running = start(client, {"input": ["x"] * 9, "timeout_ms": 20_000})
        until(lambda: llm.session.engine.stats().running_items > 0)
        late, default = start(client, {"input": "y", "timeout_ms": 50}), start(client, {"input": "z"})
        until(lambda: llm.session.engine.stats().num_jobs == 3)
        time.sleep(0.1)
        gate.set()
        assert running.result(30).status_code == 200
        for response in (late.result(30), default.result(30)):
            assert response.status_code == 408
            assert response.json()["error"]["type"] == "DeadlineExceededError"


def test_priorities_need_the_policy_and_then_order_the_queue() -> None:
    with llms.load(scheduling_policy="priority", max_batch_size=1) as llm, serving(llm) as client:
        order: list[str] = []

        def note(name: str) -> Any:
            return lambda future: order.append(name)

        with held(llm):
            running = start(client, {"input": "first"})
            until(lambda: llm.session.engine.stats().running_items == 1)
            for count, (name, priority) in enumerate({"late": 5, "normal": 0, "soon": -5}.items(), start=2):
                start(client, {"input": name, "priority": priority}).add_done_callback(note(name))
                until(lambda count=count: llm.session.engine.num_waiting == count - 1)
        running.result(30)
        until(lambda: len(order) == 3)
        assert order == ["soon", "normal", "late"]


def test_work_of_a_client_that_left_is_dropped() -> None:
    with llms.load(max_batch_size=2) as llm, serving(llm) as client:
        before = llm.session.engine.stats().items
        with held(llm) as gate:
            future = start(client, {"input": [f"text {index}" for index in range(200)]})
            until(lambda: llm.session.engine.stats().running_items > 0)
            future.cancel()
            until(lambda: llm.session.engine.stats().num_jobs == 0)
            gate.set()
        client.ok("/classify", {"input": "still here"})
        assert llm.session.engine.stats().items - before <= 2 * 2 + 1
        until(lambda: client.state.lifecycle.num_in_flight == 0)


def test_server_answers_after_many_cancelled_clients() -> None:
    client = shared_client()

    async def cancelled() -> None:
        tasks = [asyncio.ensure_future(client.http.post("/classify", json={"input": "x " * 50})) for _ in range(200)]
        await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    client.run(cancelled())
    began = time.monotonic()
    client.ok("/classify", {"input": "x"})
    assert time.monotonic() - began < 5.0
    until(lambda: client.state.lifecycle.num_in_flight == 0)
    assert llms.shared().session.engine.stats().num_jobs == 0


def test_load_counts_requests_where_tracking_is_on() -> None:
    with llms.load() as llm, serving(llm, ServerSettings(load_tracking=True)) as client:
        assert client.get("/load").json() == {"server_load": 0}
        with held(llm):
            future = start(client, {"input": "x"})
            until(lambda: client.get("/load").json() == {"server_load": 1})
        future.result(30)
        assert client.get("/load").json() == {"server_load": 0}
    assert shared_client().get("/load").json() == {"server_load": 0}


@pytest.mark.parametrize("niceness", [5, 0])
def test_cores_are_offered_for_all_but_one_short_request_alone(niceness: int) -> None:
    offers = niceness > 0
    with llms.load() as llm, serving(llm, ServerSettings(compute_niceness=niceness)) as client:

        def gives_way_with(*bodies: Any) -> bool:
            lifecycle = client.state.lifecycle
            with held(llm):
                futures = [start(client, body) for body in bodies]
                until(lambda: lifecycle.num_in_flight == len(bodies))
                found = ops.cpu_module().gives_way()
            for future in futures:
                future.result(30)
            until(lambda: lifecycle.num_in_flight == 0)
            assert not ops.cpu_module().gives_way()
            return bool(found)

        short, long = {"input": "x"}, {"input": "x " * SHORT_BODY, "truncate_prompt_tokens": -1}
        assert not gives_way_with(short)
        assert gives_way_with(short, short) == offers
        with held(llm):
            inside = start(client, long)
            until(lambda: llm.session.engine.stats().running_items == 1)
            assert ops.cpu_module().gives_way() == offers
        inside.result(30)
        until(lambda: client.state.lifecycle.num_in_flight == 0)
        assert not ops.cpu_module().gives_way()
        assert client.post("/classify", "no object").status_code == 400
        assert not ops.cpu_module().gives_way()


def test_ready_only_after_a_forward_pass_and_not_while_draining() -> None:
    with llms.load() as llm, serving(llm) as client:
        lifecycle = client.state.lifecycle
        assert client.get("/ready").json() == {"ready": True}
        lifecycle.has_answered = False
        assert client.get("/ready").status_code == 503 and client.get("/health").status_code == 200
        starting = client.post("/classify", {"input": "x"})
        assert starting.status_code == 503 and starting.headers["retry-after"]
        lifecycle.has_answered = True
        with held(llm):
            inside = start(client, {"input": "x"})
            until(lambda: lifecycle.num_in_flight == 1)
            lifecycle.begin_drain()
            stopping = client.post("/classify", {"input": "x"})
            assert stopping.status_code == 503 and stopping.headers["retry-after"]
            assert stopping.json()["error"]["type"] == "ServiceUnavailableError"
            assert client.get("/ready").status_code == 503 and client.get("/health").status_code == 200
        assert inside.result(30).status_code == 200


def test_a_dead_engine_is_seen_by_health_and_reported() -> None:
    deaths: list[str] = []
    with llms.load() as llm, serving(llm, on_death=deaths.append) as client:
        llm.session.engine._parts.worker.die(SystemError("the thread broke"))
        until(lambda: deaths)
        assert "the thread broke" in deaths[0]
        response = client.get("/health")
        assert response.status_code == 503 and response.json()["status"] == "dead"
        assert client.get("/ping").status_code == client.get("/ready").status_code == 503
        assert client.error("/classify", {"input": "x"}, 503)["type"] == "ServiceUnavailableError"


def test_memory_error_fails_one_request_only() -> None:
    with llms.load() as llm, serving(llm) as client:
        run = llm.session.model.run

        def full(*args: Any) -> Any:
            raise MemoryError("no room")

        llm.session.model.run = full  # type: ignore[method-assign]
        assert client.error("/classify", {"input": "x"}, 503)["type"] == "OutOfMemoryError"
        llm.session.model.run = run  # type: ignore[method-assign]
        client.ok("/classify", {"input": "x"})
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize("body", [{"input": "word " * 50_000}, {"input": ["a"] * 300 + ["word " * 500]}])
def test_a_refused_body_is_freed_without_a_garbage_collection(body: dict[str, Any]) -> None:
    """A collection comes after many objects, not after many bytes: ten refused texts of 50 MB would wait for one."""
    with llms.load() as llm, serving(llm) as client:
        gc.collect()
        gc.disable()
        try:
            assert "maximum context length" in client.error("/classify", body)["message"]
            until(lambda: not any(type(thing) is Job for thing in gc.get_objects()))
        finally:
            gc.enable()


def test_what_large_requests_leave_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[str] = []
    monkeypatch.setattr(ops, "release_free_memory", lambda: released.append(threading.current_thread().name))
    monkeypatch.setattr("assay.server.spare_memory.PAUSE_S", 0.05)
    with llms.load() as llm, serving(llm) as client:
        released.clear()  # loading has given back too
        large = "word " * LARGE_BODY
        client.ok("/classify", {"input": "short"})
        time.sleep(0.15)
        assert released == []
        for count, (path, body) in enumerate(
            [
                ("/classify", {"input": large, "truncate_prompt_tokens": -1}),
                ("/classify", {"input": large}),
                ("/tokenize", {"prompt": large}),
            ],
            start=1,
        ):
            client.post(path, body)
            until(lambda count=count: len(released) == count)
        time.sleep(0.15)
        assert len(released) == 3 and all(name.startswith("assay-server") for name in released)


def test_texts_that_are_encoded_to_their_end_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.server.whole_text.MAX_CHARS", 1000)
    client, reranker, windows = shared_client(), shared_client(1), {"mode": "window"}
    for text, status in (("a " * 500, 200), ("a " * 501, 413)):
        assert client.post("/tokenize", {"prompt": text}).status_code == status
        assert client.post("/classify", {"input": text, "long_input": windows}).status_code == status
        ranked = {"query": "a", "documents": [text], "long_input": windows}
        assert reranker.post("/rerank", ranked).status_code == status
    message = "the prompt must have at most 1000 characters, got 1002"
    assert client.error("/tokenize", {"prompt": "a " * 501}, 413)["message"] == message


def test_heaps_are_trimmed_early_unless_the_environment_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    class Libc:
        def mallopt(self, option: int, value: int) -> int:
            calls.append((option, value))
            return 1

    monkeypatch.setattr(spare_memory.sys, "platform", "linux")
    monkeypatch.setattr(spare_memory.ctypes, "CDLL", lambda name: Libc())
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    spare_memory.trim_early()
    assert calls == []
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_")
    spare_memory.trim_early()
    assert calls == [(-1, spare_memory.TRIM_THRESHOLD_BYTES), (-3, spare_memory.MMAP_THRESHOLD_BYTES)]
    monkeypatch.setattr(spare_memory.ctypes, "CDLL", lambda name: object())  # another libc
    spare_memory.trim_early()


def test_health_answers_while_long_texts_are_tokenised() -> None:
    client = shared_client()
    text = "lorem ipsum dolor sit amet " * 15_000
    big = [start(client, {"prompt": text}, "/tokenize") for _ in range(2)]

    async def slowest() -> float:
        worst = 0.0
        while not all(future.done() for future in big):
            began = time.perf_counter()
            await client.http.get("/health")
            worst = max(worst, time.perf_counter() - began)
            await asyncio.sleep(0.001)
        return worst

    worst = client.run(slowest())
    counts = [future.result(30).json()["count"] for future in big]
    assert counts[0] == counts[1] > 75_000
    assert worst < 2.0  # it waited for no tokenizer, which takes longer; speed is measured in bench/, not here


def test_auto_truncate_cuts_in_every_dialect() -> None:
    with serving(llms.shared(), ServerSettings(requests=RequestPolicy(auto_truncate=True))) as client:
        response = client.post("/classify", {"input": ["word " * 300, "short"], "return_details": True})
        assert response.headers["x-assay-truncated-items"] == "1"
        assert [item["truncated"] for item in response.json()["data"]] == [True, False]
        assert client.post("/predict", {"inputs": "word " * 300, "truncate": False}).status_code == 422


def test_a_client_that_leaves_while_sending_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    client = shared_client()
    for path in ("/classify", "/tokenize"):
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "http_version": "1.1",
            "query_string": b"",
            "server": ("test", 80),
            "client": None,
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"100")],
        }
        client.run(client.app(scope, receive, send))
        assert sent[0]["status"] == 499
    assert not [entry for entry in caplog.records if entry.levelname == "ERROR"]


def test_timing_headers_are_on_every_dialect() -> None:
    names = "total-time tokenization-time queue-time inference-time compute-time compute-tokens compute-characters"
    for client, path, body in (
        (shared_client(), "/classify", {"input": ["four", "five5"]}),
        (shared_client(), "/predict", {"inputs": "nine chars"[:9]}),
        (shared_client(1), "/rerank", {"query": "four", "texts": ["five5"]}),
    ):
        headers = client.post(path, body).headers
        values = {name: float(headers[f"x-{name}"]) for name in names.split()}
        assert values["compute-characters"] == 9 and values["compute-tokens"] > 2
        assert 0 < values["total-time"] and values["inference-time"] > 0
        assert values["tokenization-time"] + values["queue-time"] <= values["total-time"] + 1.0
        assert headers["x-compute-type"] == "cpu"


def test_metrics_count_what_was_done() -> None:
    with llms.load() as llm, serving(llm) as client:
        reply = client.ok("/classify", {"input": ["a", "b c"]})
        client.error("/classify", {"input": 5})
        client.post("/nowhere", {})
        page = client.get("/metrics")
        assert page.headers["content-type"].startswith("text/plain; version=")
        lines = dict(line.rsplit(" ", 1) for line in page.text.splitlines() if not line.startswith("#"))
        label = '{model_name="m"}'
        tokens = float(reply["usage"]["prompt_tokens"])
        for name, value in (
            ("vllm:request_success_total", 1.0),
            ("assay_items_total", 2.0),
            ("vllm:prompt_tokens_total", tokens),
            ("vllm:request_prompt_tokens_sum", tokens),
            ("vllm:e2e_request_latency_seconds_count", 1.0),
            ("vllm:request_queue_time_seconds_count", 1.0),
            ("vllm:request_inference_time_seconds_count", 1.0),
            ("assay_request_tokenize_time_seconds_count", 1.0),
            ("assay_request_serialize_time_seconds_count", 1.0),
            ("vllm:num_requests_waiting", 0.0),
            ("vllm:num_requests_running", 0.0),
            ("assay_queue_tokens", 0.0),
            ("assay_engine_alive", 1.0),
        ):
            assert float(lines[name + label]) == value, name
        assert float(lines["assay_batches_total" + label]) >= 1
        assert 0 < float(lines["assay_batch_fill_ratio" + label]) <= 1
        assert lines['assay_rejected_requests_total{model_name="m",reason="Bad Request"}'] == "1.0"
        assert lines['assay_http_requests_total{method="POST",route="/classify",status="200"}'] == "1.0"
        assert lines['assay_http_requests_total{method="POST",route="",status="404"}'] == "1.0"


def test_cache_salts_keep_tenants_apart() -> None:
    with llms.load(result_cache_bytes=1 << 20) as llm, serving(llm) as client:
        bodies = [{"input": "the same text", "cache_salt": salt} for salt in ("a", "b", "a", None, "b")]
        replies = [client.ok("/classify", body)["data"] for body in bodies]
        assert all(reply == replies[0] for reply in replies)
        assert llm.session.engine.stats().cache_hits == 2  # the second "a" and the second "b"


def test_several_models_are_told_apart_by_name() -> None:
    models = {"labels": llms.shared(), "ranker": llms.shared(num_labels=1), "vectors": llms.shared(llms.MODEL)}
    with serving(models) as client:
        assert [card["id"] for card in client.get("/v1/models").json()["data"]] == list(models)
        assert client.ok("/classify", {"input": "x"})["model"] == "labels"
        assert client.ok("/rerank", {"model": "ranker", "query": "q", "documents": ["d"]})["results"]
        assert client.ok("/embeddings", {"model": "vectors", "input": "x"})["data"]
        unnamed = client.ok("/rerank", {"query": "q", "documents": ["d"]})
        assert unnamed["model"] == "ranker"  # the first that can
        wrong = client.error("/rerank", {"model": "labels", "query": "q", "documents": ["d"]})
        assert wrong["message"] == "The model `labels` does not support this route."
        missing = client.error("/rerank", {"model": "no", "query": "q", "documents": ["d"]}, 404)
        assert missing["message"].endswith("Valid aliases: labels, ranker, vectors.")


def test_model_card_is_openais() -> None:
    reply = shared_client().get("/v1/models").json()
    assert reply["object"] == "list" and [card["id"] for card in reply["data"]] == ["m", "alias"]
    card = reply["data"][0]
    assert list(card) == "id object created owned_by root parent max_model_len permission".split()
    assert card["max_model_len"] == 128 and card["permission"][0]["object"] == "model_permission"


def test_version_and_documents() -> None:
    import assay

    client = shared_client()
    assert client.get("/version").json() == {"version": assay.__version__}
    page = client.get("/openapi.json").json()
    assert {"/classify", "/v1/rerank", "/invocations", "/health"} <= set(page["paths"])
    assert client.get("/docs").status_code == 200
    with serving(llms.shared(), ServerSettings(show_docs=False)) as bare:
        assert bare.get("/docs").status_code == bare.get("/openapi.json").status_code == 404


def test_every_reference_of_the_openapi_page_resolves() -> None:
    page = shared_client().get("/openapi.json").json()

    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from ([value["$ref"]] if isinstance(value.get("$ref"), str) else [])
            for item in value.values():
                yield from references(item)
        elif isinstance(value, list):
            for item in value:
                yield from references(item)

    found = set(references(page["paths"]))
    assert found
    for reference in set(references(page)):
        assert reference.removeprefix("#/components/schemas/") in page["components"]["schemas"], reference


def test_tokenize_and_detokenize() -> None:
    client = shared_client()
    _, tokenizer = llms.reference()
    text = "Hello, tokens!"
    ids = tokenizer(text)["input_ids"]
    assert client.ok("/tokenize", {"model": "m", "prompt": text}) == {
        "count": len(ids),
        "max_model_len": 128,
        "tokens": ids,
        "token_strs": None,
    }
    bare = client.ok("/tokenize", {"prompt": text, "add_special_tokens": False, "return_token_strs": True})
    assert bare["tokens"] == ids[1:-1] and bare["token_strs"] == tokenizer.convert_ids_to_tokens(ids[1:-1])
    assert client.ok("/tokenize", {"prompt": "word " * 1000})["count"] > 128
    assert client.ok("/detokenize", {"tokens": ids}) == {"prompt": tokenizer.decode(ids)}
    error = client.error("/tokenize", {"model": "no", "prompt": text}, 404)
    assert error["message"] == "The model `no` does not exist. Valid aliases: m, alias." and error["param"] == "model"
