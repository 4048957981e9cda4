"""What real clients send gets what they read; `make clients` runs the clients themselves."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import llms
import tiny_models
from assay import LLM
from assay.errors import OverloadedError
from client_bodies import ClientCall, missing, recorded_calls
from served import Client, serving

LONG_TEXT = "word " * 5000
RAW = {"activation_fn": "torch.nn.modules.linear.Identity"}
"""The reranker's own scores are logits, so that a dialect which wants 0..1 must ask for a sigmoid."""
NAMES = {"rerank": "reranker", "classify": "classifier", "embed": "embedder", "models": "reranker"}
TEI_INFO_KEYS = """
model_id model_sha model_dtype model_type max_concurrent_requests max_input_length max_batch_tokens max_batch_requests
max_client_batch_size tokenization_workers version sha docker_label
""".split()
"""tei-client raises where one of them is absent, null or not."""
CALLS = recorded_calls()
WORK = [call for call in CALLS if call.kind != "models"]


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Client]]:
    """A server for each kind of model."""
    folder = tmp_path_factory.mktemp("models") / "reranker"
    tiny_models.make(folder, "Bert", llms.CLASSIFIER, num_labels=1, seed=3, sentence_transformers=RAW)
    models = {"reranker": LLM(folder), "classifier": llms.load(), "embedder": llms.load(llms.MODEL)}
    with ExitStack() as stack:
        yield {name: stack.enter_context(serving({name: llm})) for name, llm in models.items()}
    for llm in models.values():
        llm.close()


@pytest.fixture
def client(call: ClientCall, clients: dict[str, Client]) -> Client:
    """The server that the call is for."""
    return clients[NAMES[call.kind]]


def library(client: Client) -> LLM:
    return client.state.models.default.llm


def named(call: pytest.FixtureRequest | ClientCall) -> str:
    return call.name if isinstance(call, ClientCall) else str(call)


def send(client: Client, request: dict[str, Any], body: Any = None) -> Any:
    """Replay one request with its own headers."""
    if request["method"] == "GET":
        return client.get(request["path"], headers=request["headers"])
    return client.post(request["path"], body or request["body"], headers=request["headers"])


def wanted(call: ClientCall, llm: LLM, texts: list[str], **options: Any) -> Any:
    """What the library says, in the shape of `got`."""
    if call.kind == "rerank":
        scores = [output.outputs.score for output in llm.score(call.body["query"], texts, use_tqdm=False, **options)]
        if call.wants_probabilities:
            scores = [1 / (1 + 2.718281828459045**-score) for score in scores]
        return sorted(enumerate(scores), key=lambda entry: -entry[1])
    if call.kind == "classify":
        probs = [output.outputs.probs for output in llm.classify(texts, use_tqdm=False, **options)]
        if call.wants_probabilities:
            return [dict(zip(llm.labels, each, strict=True)) for each in probs]
        return probs
    return [output.outputs.embedding for output in llm.embed(texts, use_tqdm=False)]


def got(call: ClientCall, reply: Any) -> Any:
    """The numbers of a reply: (index, score) best first; probabilities; embeddings."""
    if call.kind == "rerank":
        if call.is_tei:
            return [(item["index"], item["score"]) for item in reply]
        results = reply["data" if call.dialect == "voyage" else "results"]
        return [(item["index"], item["relevance_score"]) for item in results]
    if call.kind == "classify":
        if call.wants_probabilities:
            rows = reply if call.is_tei else reply["data"]
            return [{item["label"]: item["score"] for item in items} for items in rows]
        return [item["probs"] for item in reply["data"]]
    raw = [base64.b64decode(item["embedding"]) for item in reply["data"]]
    return [list(struct.unpack(f"<{len(item) // 4}f", item)) for item in raw]


def test_every_kind_of_call_is_recorded() -> None:
    assert len(CALLS) >= 14
    assert {call.kind for call in CALLS} == {"rerank", "classify", "embed", "models"}
    paths = {call.requests[-1]["path"] for call in CALLS}
    assert paths >= {"/rerank", "/v1/rerank", "/v2/rerank", "/classify", "/predict", "/v1/embeddings", "/v1/models"}


@pytest.mark.parametrize("call", CALLS, ids=named)
def test_a_recorded_call_gets_what_its_client_reads(call: ClientCall, client: Client) -> None:
    replies = [send(client, request) for request in call.requests]
    assert [reply.status_code for reply in replies] == [200] * len(replies), replies[-1].text
    reply = replies[-1].json()
    assert [problem for read in call.reads if (problem := missing(reply, read))] == []
    if call.kind == "models":
        assert [card["id"] for card in reply["data"]] == [NAMES["models"]]
    elif call.kind == "embed":
        for ours, theirs in zip(got(call, reply), wanted(call, library(client), call.texts), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-7)
    else:
        for ours, theirs in zip(got(call, reply), wanted(call, library(client), call.texts), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("call", [call for call in CALLS if call.is_tei and len(call.requests) > 1], ids=named)
def test_tei_info_has_every_key_its_client_validates(call: ClientCall, client: Client) -> None:
    info = send(client, call.requests[0]).json()
    assert [key for key in TEI_INFO_KEYS if key not in info] == []
    ((kind, labels),) = info["model_type"].items()
    assert kind == NAMES[call.kind]
    names = library(client).labels
    assert labels["id2label"] == {str(index): name for index, name in enumerate(names)}
    assert labels["label2id"] == {name: index for index, name in enumerate(names)}


@pytest.mark.parametrize("call", WORK, ids=named)
def test_a_text_that_is_too_long_is_refused_with_the_reason_or_cut(call: ClientCall, client: Client) -> None:
    reply = send(client, call.requests[-1], call.with_text(LONG_TEXT))
    if call.is_cut:
        assert reply.status_code == 200, reply.text
        expected = wanted(call, library(client), [*call.texts, LONG_TEXT], truncate_prompt_tokens=-1)
        for ours, theirs in zip(got(call, reply.json()), expected, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-6)
    elif call.is_tei:
        assert reply.status_code == 422, reply.text
        assert reply.json()["error_type"] == "Validation" and reply.json()["error"]
    else:
        assert reply.status_code == 400, reply.text
        assert "reduce the length of the input" in reply.json()["error"]["message"]


@pytest.mark.parametrize("call", WORK, ids=named)
def test_a_full_server_says_when_to_come_back_and_then_answers(
    call: ClientCall, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(job: Any) -> None:
        raise OverloadedError("900 tokens are waiting", 2.4)

    with monkeypatch.context() as full:
        full.setattr(client.state.models.default.engine, "start", refuse)
        refused = send(client, call.requests[-1])
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "3"  # whole seconds, never too few
    assert refused.json()["error"]
    if call.is_tei:
        assert refused.json()["error_type"] == "Overloaded"
    assert send(client, call.requests[-1]).status_code == 200
