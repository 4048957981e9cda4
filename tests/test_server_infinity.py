"""The dialect of Infinity: `raw_scores` asks for its scale, its reply and its cut, on /rerank and /classify."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import llms
import tiny_models
from assay import LLM
from served import Client, serving, shared_client

QUERY, DOCS = "Where is Munich?", ["Munich is in Germany.", "The sky is blue and wide.", "München"]
TEXTS = ["Loved the new café", "or not"]
LOGITS = {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}


@pytest.fixture(scope="module")
def reranker() -> Client:
    return shared_client(1)


@pytest.fixture(scope="module")
def classifier() -> Client:
    return shared_client()


def test_rerank_reply_has_the_documented_shape_key_for_key(reranker: Client) -> None:
    body = {"query": QUERY, "documents": DOCS, "return_documents": True, "raw_scores": False, "model": "alias"}
    wanted = reranker.ok("/rerank", {"query": QUERY, "documents": DOCS})
    for path in ("/rerank", "/v1/rerank", "/invocations"):
        reply = reranker.ok(path, body, headers={"X-Request-Id": "7"})
        assert list(reply) == ["object", "results", "model", "usage", "id", "created"]
        assert (reply["object"], reply["model"], reply["id"]) == ("rerank", "alias", "infinity-7")
        assert reply["usage"] == wanted["usage"] and isinstance(reply["created"], int)
        assert reply["results"] == [
            {"relevance_score": each["relevance_score"], "index": each["index"], "document": DOCS[each["index"]]}
            for each in wanted["results"]
        ]
    for flag in (False, None):
        results = reranker.ok("/rerank", {**body, "return_documents": flag, "top_n": 2})["results"]
        assert [each["document"] for each in results] == [None, None]


def test_classify_reply_has_the_documented_shape_key_for_key(classifier: Client) -> None:
    body = {"input": TEXTS, "raw_scores": False, "model": "m"}
    outputs = llms.shared().classify(TEXTS, use_tqdm=False)
    for path in ("/classify", "/v1/classify", "/invocations"):
        reply = classifier.ok(path, body, headers={"X-Request-Id": "7"})
        assert list(reply) == ["object", "data", "model", "usage", "id", "created"]
        assert (reply["object"], reply["model"], reply["id"]) == ("classify", "m", "infinity-7")
        assert list(reply["usage"]) == ["prompt_tokens", "total_tokens"]
        for labels, output in zip(reply["data"], outputs, strict=True):
            pairs = sorted(zip(output.outputs.probs, llms.LABELS.values(), strict=True), reverse=True)
            assert labels == [{"score": score, "label": label} for score, label in pairs]
    best = classifier.ok("/classify", {**body, "top_k": 1})["data"]
    assert [labels for labels in best] == [labels[:1] for labels in reply["data"]]


@pytest.mark.parametrize("extra", [{}, {"messages": [{"role": "user", "content": "x"}], "input": None}])
def test_raw_scores_are_honoured_whatever_the_reply(classifier: Client, extra: dict[str, Any]) -> None:
    template = "{{ messages[0].content }}"
    with llms.load(chat_template=template) as llm, serving(llm) as client:
        body = {"input": TEXTS[0], **extra}
        vllm = {"X-Assay-Dialect": "vllm"}
        probs = client.ok("/classify", body, headers=vllm)["data"][0]["probs"]
        logits = client.ok("/classify", {**body, "use_activation": False}, headers=vllm)["data"][0]["probs"]
        assert client.ok("/classify", {**body, "raw_scores": True}, headers=vllm)["data"][0]["probs"] == logits != probs
        assert client.ok("/classify", {**body, "raw_scores": False}, headers=vllm)["data"][0]["probs"] == probs


def test_raw_scores_true_gives_logits(reranker: Client, classifier: Client) -> None:
    body = {"query": QUERY, "documents": DOCS}
    logits = reranker.ok("/rerank", {**body, "use_activation": False})["results"]
    for extra in ({}, {"use_activation": False}):
        raw = reranker.ok("/rerank", {**body, "raw_scores": True, **extra})["results"]
        assert [each["relevance_score"] for each in raw] == [each["relevance_score"] for each in logits]
    response = classifier.post("/classify", {"input": TEXTS, "raw_scores": True})
    assert response.headers["x-assay-score-kind"] == "logit"
    scores = {each["label"]: each["score"] for each in response.json()["data"][0]}
    assert llms.close([scores[name] for name in llms.LABELS.values()], llms.logits(TEXTS[0]))


def test_probabilities_come_whatever_the_model_declares(tmp_path: Path) -> None:
    folder = tiny_models.make(tmp_path / "logits", "Bert", llms.CLASSIFIER, num_labels=1, **LOGITS)
    regression = tiny_models.make(
        tmp_path / "regression", "Bert", llms.CLASSIFIER, num_labels=3, problem_type="regression"
    )
    with LLM(folder) as llm, serving(llm) as client:
        body = {"query": QUERY, "documents": DOCS}
        kinds = [
            client.post("/rerank", {**body, **extra}).headers["x-assay-score-kind"]
            for extra in ({}, {"raw_scores": False}, {"raw_scores": None}, {"raw_scores": True})
        ]
        assert kinds == ["logit", "sigmoid", "sigmoid", "logit"]
        own = client.post("/rerank", {**body, "raw_scores": False, "use_activation": True})
        assert own.headers["x-assay-score-kind"] == "logit", "the model's own scores were asked for"
        second = client.ok("/v2/rerank", {**body, "raw_scores": False, "return_details": True})
        assert second["score_kind"] == "sigmoid" and "meta" in second
    with LLM(regression) as llm, serving(llm) as client:
        response = client.post("/classify", {"input": TEXTS, "raw_scores": False})
        assert response.headers["x-assay-score-kind"] == "logit", "as the pipeline behind Infinity"


def test_long_texts_are_cut(reranker: Client, classifier: Client) -> None:
    long = "word " * 400
    cut = reranker.ok("/rerank", {"query": QUERY, "documents": [long], "truncate_prompt_tokens": -1})["results"]
    found = reranker.ok("/rerank", {"query": QUERY, "documents": [long], "raw_scores": False})["results"]
    assert found[0]["relevance_score"] == cut[0]["relevance_score"]
    assert len(classifier.ok("/classify", {"input": [long], "raw_scores": False})["data"]) == 1
    short = reranker.post(
        "/rerank", {"query": QUERY, "documents": [long], "raw_scores": False, "truncate_prompt_tokens": 20}
    )
    assert short.json()["usage"]["prompt_tokens"] == 20, "a length in the body is a vLLM key, and counts here too"


def test_the_name_that_its_clients_send_for_none_is_none(reranker: Client, classifier: Client) -> None:
    for client, path, body in (
        (reranker, "/rerank", {"query": QUERY, "documents": DOCS, "raw_scores": False}),
        (classifier, "/classify", {"input": TEXTS, "raw_scores": False}),
        (classifier, "/classify", {"input": TEXTS}),
    ):
        assert client.ok(path, {**body, "model": "default/not-specified"})["model"] == "m"
    assert reranker.error("/rerank", {"query": QUERY, "documents": DOCS, "raw_scores": False, "model": "x"}, 404)


@pytest.mark.parametrize("flag", [True, False])
def test_contradictions_are_refused(reranker: Client, classifier: Client, flag: bool) -> None:
    flags = {"raw_scores": flag, "use_activation": flag}
    for client, path, body in (
        (reranker, "/rerank", {"query": QUERY, "documents": DOCS}),
        (classifier, "/classify", {"input": TEXTS}),
    ):
        error = client.error(path, {**body, **flags})
        assert "contradict" in error["message"] and error["param"] == "raw_scores"
        assert client.error(path, {**body, "raw_scores": "no way"})["param"] == "body.raw_scores"
    details = classifier.error("/classify", {"input": TEXTS, "raw_scores": flag, "return_details": True})
    assert details["param"] == "return_details"
