"""POST /score and /rerank: every spelling, the numbers of LLM.score, Jina's and Cohere's bodies."""

from __future__ import annotations

from typing import Any

import pytest

import llms
from assay import PoolingParams
from served import Client, scores, serving, shared_client, usage_of

QUERY = "how do I reset my password"
DOCS = ["Choose forgot password.", "The museum is closed on Mondays.", "", "Passwords expire after a year, then reset."]
PAIRS = [("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2")]


@pytest.fixture(scope="module")
def client() -> Client:
    return shared_client(1)


def offline(query: Any = QUERY, docs: Any = DOCS, **kwargs: Any) -> list[float]:
    outputs = llms.shared(num_labels=1).score(query, docs, use_tqdm=False, **kwargs)
    return [output.outputs.score for output in outputs]


@pytest.mark.parametrize(("left", "right"), PAIRS)
@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_score_takes_every_pair_of_keys(client: Client, path: str, left: str, right: str) -> None:
    reply = client.ok(path, {left: QUERY, right: DOCS, "encoding_format": "float"})
    assert list(reply) == ["id", "object", "created", "model", "data", "usage"]
    assert reply["id"].startswith("score-") and reply["object"] == "list"
    assert [list(item) for item in reply["data"]] == [["index", "object", "score"]] * len(DOCS)
    assert scores(reply) == offline()
    count = reply["usage"]["prompt_tokens"]
    assert reply["usage"] == usage_of(count)


def test_score_pairs_one_to_one_and_many_to_many(client: Client) -> None:
    assert scores(client.ok("/score", {"queries": QUERY, "documents": DOCS[0]})) == offline(QUERY, DOCS[0])
    both = {"queries": DOCS, "documents": DOCS[::-1]}
    assert scores(client.ok("/score", both)) == offline(DOCS, DOCS[::-1])
    assert "1:1, 1:N or N:N" in client.error("/score", {"queries": DOCS[:2], "documents": DOCS})["message"]
    assert "At least one text_pair element" in client.error("/score", {"queries": "q", "documents": []})["message"]
    assert "At least one text element" in client.error("/score", {"queries": [], "documents": ["a"]})["message"]


def test_score_content_parts_are_texts(client: Client) -> None:
    parts = {"content": [{"type": "text", "text": DOCS[0]}, {"type": "text", "text": DOCS[1]}]}
    assert scores(client.ok("/score", {"queries": QUERY, "documents": parts})) == offline(QUERY, parts)
    image = {"content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}
    error = client.error("/score", {"queries": QUERY, "documents": image})
    assert error["message"] == "MultiModalParam is not supported for BertForSequenceClassification"


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank_orders_and_keeps_the_documents(client: Client, path: str) -> None:
    reply = client.ok(path, {"model": "m", "query": QUERY, "documents": DOCS})
    assert list(reply)[:4] == ["id", "model", "usage", "results"]
    assert reply["id"].startswith("score-") and list(reply["usage"]) == ["prompt_tokens", "total_tokens"]
    expected = offline()
    order = sorted(range(len(DOCS)), key=lambda index: -expected[index])
    assert [result["index"] for result in reply["results"]] == order
    for result in reply["results"]:
        assert list(result) == ["index", "document", "relevance_score"]
        assert result["document"] == {"text": DOCS[result["index"]], "multi_modal": None}
        assert result["relevance_score"] == expected[result["index"]]


@pytest.mark.parametrize(("top_n", "count"), [(None, 4), (0, 4), (1, 1), (2, 2), (9, 4)])
def test_rerank_top_n(client: Client, top_n: int | None, count: int) -> None:
    full = client.ok("/rerank", {"query": QUERY, "documents": DOCS})["results"]
    cut = client.ok("/rerank", {"query": QUERY, "documents": DOCS, "top_n": top_n})["results"]
    assert cut == full[:count]


def test_rerank_refuses_a_negative_top_n(client: Client) -> None:
    error = client.error("/rerank", {"query": QUERY, "documents": DOCS, "top_n": -1})
    assert error["type"] == "Bad Request" and error["param"] == "body.top_n"


def test_rerank_ties_keep_the_order_of_the_documents(client: Client) -> None:
    results = client.ok("/rerank", {"query": QUERY, "documents": ["same"] * 5 + DOCS[:1]})["results"]
    tied = [result["index"] for result in results if result["document"]["text"] == "same"]
    assert tied == [0, 1, 2, 3, 4]


def test_rerank_bodies_of_other_clients(client: Client) -> None:
    plain = client.ok("/rerank", {"query": QUERY, "documents": DOCS[:2]})["results"]
    jina = {"model": "m", "query": QUERY, "documents": DOCS[:2], "top_n": None, "return_documents": True}
    xinference = {**jina, "max_chunks_per_doc": None, "return_len": None}
    dicts = {"query": QUERY, "documents": [{"text": text, "title": "t"} for text in DOCS[:2]], "rank_fields": None}
    for body in (jina, xinference, dicts):
        assert client.ok("/v1/rerank", body)["results"] == plain
    cohere = client.ok("/v2/rerank", {**jina, "max_tokens_per_doc": 4096, "priority": 0})
    assert cohere["results"] == plain
    assert cohere["meta"] == {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    for wrong in ([{"title": "no text"}], [None], [{"text": 5}], "", [[]], {"text": None}):
        response = client.post("/v1/rerank", {"query": QUERY, "documents": wrong})
        assert response.status_code == (200 if wrong == "" else 400), response.text
        if response.status_code == 400:
            assert response.json()["detail"] == response.json()["error"]["message"]


@pytest.mark.parametrize(("top_k", "count"), [(None, 4), (0, 4), (2, 2), (9, 4)])
def test_rerank_top_k_is_top_n(client: Client, top_k: int | None, count: int) -> None:
    body = {"query": QUERY, "documents": DOCS}
    full = client.ok("/rerank", body)["results"]
    for top_n in ({"top_n": None}, {"top_n": top_k}):
        assert client.ok("/rerank", {**body, "top_k": top_k, **top_n})["results"] == full[:count]
    assert client.ok("/v2/rerank", {**body, "top_k": top_k})["results"] == full[:count]
    error = client.error("/rerank", {**body, "top_n": 3, "top_k": 2})
    assert error["message"] == "top_n (3) and top_k (2) contradict each other: pass one" and error["param"] == "top_k"
    assert client.error("/rerank", {**body, "top_k": -1})["param"] == "body.top_k"


def test_score_raw_scores_gives_logits_or_probabilities(client: Client) -> None:
    body = {"queries": QUERY, "documents": DOCS, "return_details": True}
    raw, plain = client.ok("/score", {**body, "raw_scores": True}), client.ok("/score", body)
    assert raw["data"] == client.ok("/score", {**body, "use_activation": False})["data"] != plain["data"]
    assert (raw["score_kind"], plain["score_kind"]) == ("logit", "sigmoid")
    assert client.ok("/score", {**body, "raw_scores": False})["data"] == plain["data"]
    assert client.error("/score", {**body, "raw_scores": True, "use_activation": True})["param"] == "raw_scores"


def test_score_limits_count_tokens_of_each_side(client: Client) -> None:
    long = "word " * 14
    for limits in ({}, {"max_tokens_per_query": 10}, {"max_tokens_per_doc": 10}):
        params = PoolingParams(extra_kwargs=limits)
        outputs = llms.shared(num_labels=1).score(long, [long], pooling_params=params, use_tqdm=False)
        reply = client.ok("/rerank", {"query": long, "documents": [long], **limits})
        assert reply["usage"]["prompt_tokens"] == len(outputs[0].prompt_token_ids)
        assert reply["results"][0]["relevance_score"] == outputs[0].outputs.score
    for path in ("/rerank", "/score"):
        body = {"query": "q", "queries": "q", "documents": ["d"]}
        negative = client.error(path, {**body, "max_tokens_per_doc": -1})
        assert negative["message"] == "max_tokens_per_doc must be a non-negative integer"
        large = client.error(path, {**body, "max_tokens_per_query": 128})
        assert large["message"] == "max_tokens_per_query (128) must be less than max_model_len (128)."


@pytest.mark.parametrize("path", ["/score", "/rerank"])
def test_too_long_pairs_say_how_to_help(client: Client, path: str) -> None:
    body = {"query": QUERY * 100, "queries": QUERY * 100, "documents": DOCS}
    assert "Please reduce the length of the input prompt" in client.error(path, body)["message"]
    error = client.error(path, {**body, "truncate_prompt_tokens": 129})
    assert "Please request a smaller truncation size." in error["message"]
    client.ok(path, {**body, "truncate_prompt_tokens": 128})


def test_rerank_long_documents_in_windows(client: Client) -> None:
    long = "filler words about nothing at all. " * 40 + DOCS[0]
    body = {"query": QUERY, "documents": [DOCS[1], long, DOCS[0]], "long_input": {"mode": "window", "agg": "max"}}
    reply = client.ok("/rerank", body)
    windows = {result["index"]: result["num_windows"] for result in reply["results"]}
    assert windows[0] == windows[2] == 1 and windows[1] > 1
    by_index = {result["index"]: result["relevance_score"] for result in reply["results"]}
    assert [by_index[0], by_index[2]] == offline(QUERY, [DOCS[1], DOCS[0]])
    lone = client.ok("/rerank", {**body, "documents": [long], "long_input": {"agg": "first"}})
    assert lone["results"][0]["relevance_score"] <= by_index[1]
    assert "leave no room" in client.error("/rerank", {**body, "query": "word " * 123})["message"]


def test_windows_cover_what_a_limit_leaves_of_a_document(client: Client) -> None:
    doc = "b c d e " * 100
    body = {"query": "a", "documents": [doc], "long_input": {"mode": "window"}}
    whole = client.ok("/rerank", body)
    assert whole["usage"]["prompt_tokens"] == 400 + 4 * 4  # each of four windows has the query and three special tokens
    short = client.ok("/rerank", {**body, "max_tokens_per_doc": 10})
    assert short["usage"]["prompt_tokens"] == 10 + 4 and short["results"][0]["num_windows"] == 1
    assert short["results"][0]["relevance_score"] == offline("a", doc[:19])[0]
    # A limit may be beyond what the model reads at once, also where Cohere's clients state theirs.
    for path in ("/rerank", "/v2/rerank"):
        limited = client.ok(path, {**body, "max_tokens_per_doc": 200})
        same = client.ok(path, {**body, "documents": ["b c d e " * 50]})
        assert limited["usage"] == same["usage"]
        assert limited["results"][0]["relevance_score"] == same["results"][0]["relevance_score"]
    negative = client.error("/rerank", {**body, "max_tokens_per_doc": -1})
    assert negative["message"] == "max_tokens_per_doc must be a non-negative integer"


def test_windows_leave_room_for_the_query_as_it_is_cut(client: Client) -> None:
    window = {"documents": ["b c d e " * 100], "long_input": {"mode": "window"}}
    limited = client.ok("/rerank", {**window, "query": "a " * 300, "max_tokens_per_query": 10})
    same = client.ok("/rerank", {**window, "query": ("a " * 10).strip()})
    assert limited["usage"] == same["usage"]
    assert limited["results"][0]["relevance_score"] == same["results"][0]["relevance_score"]
    large = client.error("/rerank", {**window, "query": "a", "max_tokens_per_query": 128})
    assert large["message"] == "max_tokens_per_query (128) must be less than max_model_len (128)."


def test_windows_may_be_padded(client: Client) -> None:
    body = {"query": "a", "documents": ["b c d e " * 100], "long_input": {"mode": "window"}, "padding": "max_length"}
    reply = client.ok("/rerank", body)
    assert reply["results"][0]["num_windows"] == 4 and reply["usage"]["prompt_tokens"] == 4 * 128


def test_use_activation_false_gives_logits(client: Client) -> None:
    params = PoolingParams(use_activation=False)
    body = {"queries": QUERY, "documents": DOCS, "use_activation": False, "return_details": True}
    reply = client.ok("/score", body)
    assert scores(reply) == offline(pooling_params=params)
    assert reply["score_kind"] == "logit"
    assert client.ok("/score", {**body, "use_activation": None})["score_kind"] == "sigmoid"


def test_embedding_models_score_by_cosine_and_embed() -> None:
    import base64

    import numpy as np

    llm = llms.shared(llms.MODEL)
    with serving(llm) as client:
        outputs = llm.score(QUERY, DOCS, use_tqdm=False)
        reply = client.ok("/score", {"queries": QUERY, "documents": DOCS})
        assert scores(reply) == [output.outputs.score for output in outputs]
        once = sum(len(output.prompt_token_ids) for output in llm.embed([QUERY, *DOCS], use_tqdm=False))
        assert reply["usage"]["prompt_tokens"] == once
        embeddings = [output.outputs.embedding for output in llm.embed(DOCS, use_tqdm=False)]
        plain = client.ok("/v1/embeddings", {"model": "m", "input": DOCS})
        assert [item["embedding"] for item in plain["data"]] == embeddings
        assert plain["data"][0]["object"] == "embedding" and plain["object"] == "list"
        packed = client.ok("/embeddings", {"input": DOCS, "encoding_format": "base64"})
        for item, embedding in zip(packed["data"], embeddings, strict=True):
            assert np.frombuffer(base64.b64decode(item["embedding"]), "<f4").tolist() == embedding
        assert client.post("/classify", {"input": "x"}).status_code == 404
        assert client.ok("/invocations", {"input": "x"})["data"][0]["object"] == "embedding"


def test_embeddings_may_be_raw_and_of_another_type() -> None:
    client = shared_client(1, llms.MODEL)
    llm = llms.shared(llms.MODEL, 1)
    raw = llm.embed(QUERY, pooling_params=PoolingParams(use_activation=False), use_tqdm=False)[0].outputs.embedding
    unit = llm.embed(QUERY, use_tqdm=False)[0].outputs.embedding
    for flag, wanted in ((False, raw), (True, unit), (None, unit)):
        reply = client.ok("/v1/embeddings", {"input": QUERY, "use_activation": flag})
        assert reply["data"][0]["embedding"] == wanted
    assert raw != unit
    for form in ({"embed_dtype": "float16", "endianness": "big"}, {"embed_dtype": "bfloat16"}, {"endianness": "big"}):
        body = {"input": QUERY, "encoding_format": "base64", **form}
        pooled = client.ok("/pooling", body)["data"][0]["data"]
        assert client.ok("/v1/embeddings", body)["data"][0]["embedding"] == pooled
    assert "literal_error" in client.error("/v1/embeddings", {"input": QUERY, "embed_dtype": "int4"})["message"]


def test_embeddings_of_a_reranker_point_to_its_routes(client: Client) -> None:
    for path in ("/embeddings", "/v1/embeddings"):
        assert "rerank" in client.error(path, {"input": "x"})["message"]
