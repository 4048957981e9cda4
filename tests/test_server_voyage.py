"""The dialect of Voyage: `top_k` or `truncation` without `top_n` ask for its scale, its reply and its cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import llms
import tiny_models
from assay import LLM
from served import Client, serving, shared_client

QUERY, DOCS = "Where is Munich?", ["Munich is in Germany.", "The sky is blue and wide.", "München"]
BODY: dict[str, Any] = {"query": QUERY, "documents": DOCS, "model": "m"}


@pytest.fixture(scope="module")
def client() -> Client:
    return shared_client(1)


def test_reply_has_the_documented_shape_key_for_key(client: Client) -> None:
    wanted = client.ok("/rerank", BODY)
    entries = [
        {"index": each["index"], "relevance_score": each["relevance_score"], "document": DOCS[each["index"]]}
        for each in wanted["results"]
    ]
    usage = {"total_tokens": wanted["usage"]["total_tokens"]}
    for path in ("/rerank", "/v1/rerank", "/invocations"):
        reply = client.ok(path, {**BODY, "top_k": None, "truncation": True, "return_documents": True})
        assert list(reply) == ["object", "data", "model", "usage"]
        assert reply == {"object": "list", "data": entries, "model": "m", "usage": usage}
    for flags in ({"truncation": True}, {"top_k": 2}, {"top_k": 2, "return_documents": False}):
        data = client.ok("/rerank", {**BODY, **flags})["data"]
        assert [list(each) for each in data] == [["index", "relevance_score"]] * (2 if "top_k" in flags else 3)
    with_details = client.ok("/rerank", {**BODY, "top_k": 1, "return_details": True})
    assert with_details["score_kind"] == "sigmoid" and with_details["data"][0]["truncated"] is False


@pytest.mark.parametrize("keys", [{}, {"top_n": 2, "top_k": 2}, {"top_n": None, "truncation": True}])
def test_bodies_of_other_clients_keep_their_reply(client: Client, keys: dict[str, Any]) -> None:
    assert list(client.ok("/rerank", {**BODY, **keys})) == ["id", "model", "usage", "results"]


def test_the_header_names_the_dialect(client: Client) -> None:
    assert "data" in client.ok("/rerank", BODY, headers={"X-Assay-Dialect": "voyage"})
    assert "results" in client.ok("/rerank", {**BODY, "top_k": 1}, headers={"X-Assay-Dialect": "vllm"})


def test_truncation_says_what_becomes_of_long_texts(client: Client) -> None:
    long = {"query": QUERY, "documents": ["word " * 400]}
    cut = client.ok("/rerank", {**long, "truncate_prompt_tokens": -1})["results"][0]["relevance_score"]
    for keys in ({"top_k": None}, {"truncation": True}, {"truncation": None}):
        response = client.post("/rerank", {**long, **keys})
        assert response.json()["data"][0]["relevance_score"] == cut
        assert response.headers["x-assay-truncated-items"] == "1"
    assert client.ok("/rerank", {**long, "top_n": 1, "truncation": True})["results"][0]["relevance_score"] == cut
    error = client.post("/rerank", {**long, "truncation": False})
    assert error.status_code == 400 and "reduce the length" in error.json()["detail"], "where its client looks"


def test_scores_are_probabilities_whatever_the_model_declares(tmp_path: Path) -> None:
    declares_logits = {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}
    folder = tiny_models.make(tmp_path, "Bert", llms.CLASSIFIER, num_labels=1, **declares_logits)
    with LLM(folder) as llm, serving(llm) as raw_client:
        kinds = [
            raw_client.ok("/rerank", {**BODY, "top_k": 3, "return_details": True, **extra})["score_kind"]
            for extra in ({}, {"use_activation": True}, {"use_activation": False}, {"raw_scores": True})
        ]
        assert kinds == ["sigmoid", "logit", "logit", "logit"]
    embedder = shared_client(1, llms.MODEL)
    cosines = embedder.ok("/rerank", BODY)["results"]
    found = embedder.ok("/rerank", {**BODY, "top_k": 3})["data"]
    assert [each["relevance_score"] for each in found] == [each["relevance_score"] for each in cosines]
