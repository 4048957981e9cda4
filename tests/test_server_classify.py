"""POST /classify: the shapes of the reference page, the numbers of LLM.classify."""

from __future__ import annotations

from typing import Any

import pytest

import llms
from assay import PoolingParams
from served import Client, serving, shared_client, usage_of

TEXTS = ["Loved the new café—coffee was great.", "This update broke everything. Frustrating."]
TOP_KEYS = ["id", "object", "created", "model", "data", "usage"]
ITEM_KEYS = ["index", "label", "probs", "num_classes"]
USAGE_KEYS = [
    "prompt_tokens",
    "total_tokens",
    "completion_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
]


@pytest.fixture(scope="module")
def client() -> Client:
    return shared_client()


def offline(prompts: Any, **kwargs: Any) -> list[list[float]]:
    return [output.outputs.probs for output in llms.shared().classify(prompts, use_tqdm=False, **kwargs)]


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[0]], ids=["list", "one string"])
@pytest.mark.parametrize("path", ["/classify", "/v1/classify", "/classify/", "http://test//classify"])
def test_classify_reply_has_the_documented_shape_key_for_key(client: Client, path: str, texts: Any) -> None:
    reply = client.ok(path, {"model": "m", "input": texts})
    assert list(reply) == TOP_KEYS
    assert reply["id"].startswith("classify-") and len(reply["id"]) == len("classify-") + 32
    assert reply["object"] == "list" and reply["model"] == "m" and isinstance(reply["created"], int)
    assert list(reply["usage"]) == USAGE_KEYS
    expected = llms.shared().classify(texts, use_tqdm=False)
    assert [list(item) for item in reply["data"]] == [ITEM_KEYS] * len(expected)
    for index, (item, output) in enumerate(zip(reply["data"], expected, strict=True)):
        assert item["index"] == index and item["num_classes"] == 3
        assert item["probs"] == output.outputs.probs  # the same bits
        assert item["label"] == output.outputs.label
    count = sum(len(output.prompt_token_ids) for output in expected)
    assert reply["usage"] == usage_of(count)


def test_classify_token_ids_single_and_batch(client: Client) -> None:
    ids = [output.prompt_token_ids for output in llms.shared().classify(TEXTS, use_tqdm=False)]
    assert [item["probs"] for item in client.ok("/classify", {"input": ids})["data"]] == offline(TEXTS)
    assert [item["probs"] for item in client.ok("/classify", {"input": ids[0]})["data"]] == offline(TEXTS[0])


def test_classify_batch_of_ten_keeps_the_order(client: Client) -> None:
    texts = [f"text number {index}" for index in range(10)]
    data = client.ok("/classify", {"input": texts})["data"]
    assert [item["index"] for item in data] == list(range(10))
    assert [item["probs"] for item in data] == offline(texts)
    assert {item["label"] for item in data} <= {"negative", "neutral", "positive"}


def test_classify_truncation_counts_in_usage(client: Client) -> None:
    text = "word " * 600
    reply = client.ok("/classify", {"input": text, "truncate_prompt_tokens": 5})
    assert reply["usage"]["prompt_tokens"] == reply["usage"]["total_tokens"] == 5
    assert client.ok("/classify", {"input": text, "truncate_prompt_tokens": -1})["usage"]["prompt_tokens"] == 128
    left = client.ok("/classify", {"input": text, "truncate_prompt_tokens": 5, "truncation_side": "left"})
    assert (
        left["data"][0]["probs"]
        == offline(text, tokenization_kwargs={"truncate_prompt_tokens": 5, "truncation_side": "left"})[0]
    )
    error = client.error("/classify", {"input": text, "truncate_prompt_tokens": 129})
    assert error["type"] == "BadRequestError" and error["param"] == "truncate_prompt_tokens"
    assert error["message"] == (
        "truncate_prompt_tokens value is greater than max_model_len. Please request a smaller truncation size."
    )


def test_classify_padding_and_special_tokens(client: Client) -> None:
    padded = client.ok("/classify", {"input": "hello", "padding": "max_length", "add_special_tokens": True})
    assert padded["usage"]["prompt_tokens"] == 128
    bare = client.ok("/classify", {"input": "hello", "add_special_tokens": False})
    assert bare["usage"]["prompt_tokens"] == client.ok("/classify", {"input": "hello"})["usage"]["prompt_tokens"] - 2


@pytest.mark.parametrize("value", [None, True, False])
def test_classify_use_activation_is_the_offline_one(client: Client, value: bool | None) -> None:
    data = client.ok("/classify", {"input": TEXTS, "use_activation": value})["data"]
    assert [item["probs"] for item in data] == offline(TEXTS, pooling_params=PoolingParams(use_activation=value))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"input": []}, "You must pass at least one prompt"),
        ({"input": "", "add_special_tokens": False}, "The decoder prompt cannot be empty"),
        ({"input": "word " * 600}, "Please reduce the length of the input prompt."),
        ({"input": [5, 100000]}, "Token id 100000 is out of vocabulary"),
        ({"input": "x", "truncate_prompt_tokens": -2}, "greater_than_equal"),
        ({"input": "x", "truncation_side": "middle"}, "literal_error"),
        ({"input": "x", "priority": 2**63}, "less_than_equal"),
        ({"input": "x", "priority": 1}, "priority must be 0"),
        ({"input": "x", "normalize": None}, "Parameter `normalize` was removed; use `use_activation` instead."),
        ({"input": "x", "cache_salt": ""}, "Parameter 'cache_salt' must be a non-empty string if provided."),
        ({"input": "x", "cache_salt": 5}, "Parameter 'cache_salt' must be a non-empty string if provided."),
        ({"input": "x", "cache_salt": "a/b"}, "must be at most 128 characters"),
        ({"input": "x", "mm_processor_kwargs": {"a": 1}}, "Per-request mm_processor_kwargs are disabled by default"),
        ({"model": "m"}, "1 validation error:\n  {'type': 'missing', 'loc': ('body', 'input')"),
    ],
)
def test_classify_refuses_with_a_400_that_says_why(client: Client, body: dict[str, Any], text: str) -> None:
    assert text in client.error("/classify", body)["message"]


@pytest.mark.parametrize("name", ["softmax", "activation"])
def test_removed_names_are_refused_in_the_words_of_the_library(client: Client, name: str) -> None:
    text = f"Parameter `{name}` was removed; use `use_activation` instead."
    reranker = shared_client(1)
    for value in (True, False, "x"):
        for path in ("/classify", "/pooling", "/invocations"):
            error = client.error(path, {"input": "x", name: value})
            assert (error["message"], error["param"], error["type"]) == (text, name, "BadRequestError")
        for path in ("/score", "/rerank", "/v2/rerank"):
            assert (
                reranker.error(path, {"queries": "q", "query": "q", "documents": ["a"], name: value})["message"] == text
            )
    assert client.ok("/classify", {"input": "x", name: None})["data"][0]["probs"] == offline("x")[0]


def test_classify_accepts_the_harmless(client: Client) -> None:
    body = {"input": "x", "cache_salt": "tenant-a", "user": "u", "mm_processor_kwargs": {}, "extra": [1], "priority": 0}
    nulls = {"truncate_prompt_tokens": None, "add_special_tokens": None, "model": None, "request_id": None}
    assert client.ok("/classify", {**body, **nulls})["data"][0]["probs"] == offline("x")[0]


def test_classify_unknown_model_is_a_404_with_the_names(client: Client) -> None:
    error = client.error("/classify", {"model": "other", "input": "x"}, 404)
    assert error == {
        "message": "The model `other` does not exist. Valid aliases: m, alias.",
        "type": "NotFoundError",
        "param": "model",
        "code": 404,
    }
    assert client.ok("/classify", {"model": "alias", "input": "x"})["model"] == "alias"
    assert client.ok("/classify", {"model": "", "input": "x"})["model"] == "m"


def test_classify_extras_come_only_when_asked_for(client: Client) -> None:
    body = {"input": [TEXTS[0], "word " * 300], "truncate_prompt_tokens": 20}
    plain = client.ok("/classify", body)
    reply = client.ok("/classify", {**body, "top_k": 2, "return_details": True})
    assert reply["score_kind"] == "softmax"
    for item, bare in zip(reply["data"], plain["data"], strict=True):
        assert item["scores"] == sorted(bare["probs"], reverse=True)[:2]
        assert item["labels"][0] == bare["label"] == item["label"]
        assert item["num_tokens"] <= 20
    assert [item["truncated"] for item in reply["data"]] == [False, True]
    names = llms.LABELS
    item = client.ok("/classify", {"input": TEXTS[0], "threshold": 0.2})["data"][0]
    assert item["labels"] == [
        name
        for _, name in sorted((-item["probs"][i], names[i]) for i in range(3))
        if item["probs"][list(names.values()).index(name)] >= 0.2
    ]
    assert len(client.ok("/classify", {"input": "x", "return_scores": True})["data"][0]["labels"]) == 3


def test_classify_long_input_combines_windows(client: Client) -> None:
    text = " ".join(f"word{index} and more" for index in range(120))
    reply = client.ok("/classify", {"input": ["short", text], "long_input": {"mode": "window"}, "return_details": True})
    short, long = reply["data"]
    assert short["num_windows"] == 1 and short["probs"] == offline("short")[0]
    assert long["num_windows"] > 3 and not long["truncated"]
    results = {
        agg: client.ok("/classify", {"input": text, "long_input": {"agg": agg}})["data"][0]["probs"]
        for agg in ("max", "mean", "first")
    }
    assert all(low <= high for low, high in zip(results["mean"], results["max"], strict=True))
    assert abs(sum(results["mean"]) - 1.0) < 1e-5 and abs(sum(results["first"]) - 1.0) < 1e-5
    more = client.ok("/classify", {"input": text, "long_input": {"stride": 40}})
    assert more["data"][0]["num_windows"] > long["num_windows"]
    for stride in (1, 500):
        error = client.error("/classify", {"input": text, "long_input": {"stride": stride}})
        assert "must not be larger than a window" in error["message"]
    assert (
        "excludes"
        in client.error("/classify", {"input": text, "long_input": {}, "truncate_prompt_tokens": 5})["message"]
    )


def test_routes_of_what_a_model_cannot_do_are_missing(client: Client) -> None:
    for path in ("/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank"):
        for body in ({"query": "q", "documents": ["d"], "queries": "q"}, {"nonsense": 1}):
            response = client.post(path, body)
            assert (response.status_code, response.json()) == (404, {"detail": "Not Found"})
    assert client.get("/classify").status_code == 405
    assert client.post("/nowhere", {}).json() == {"detail": "Not Found"}


def test_classify_on_another_task_is_a_501() -> None:
    with llms.load(llms.TOKENS) as llm, serving(llm) as tokens:
        assert tokens.post("/classify", {"input": "x"}).status_code == 404


def test_invocations_is_the_matching_route(client: Client) -> None:
    body = {"input": TEXTS}
    direct, invoked = client.ok("/classify", body), client.ok("/invocations", body)
    assert list(direct) == list(invoked) and direct["data"] == invoked["data"]
    error = client.error("/invocations", {"nothing": "known"})
    assert error["message"].startswith("Cannot find suitable handler for request. Expected one of: [")
    reranker = shared_client(1)
    body = {"query": "q", "documents": ["a", "b c"]}
    assert reranker.ok("/invocations", body)["results"] == reranker.ok("/rerank", body)["results"]
    assert reranker.ok("/invocations", {"text_1": "q", "text_2": "b"})["data"][0]["object"] == "score"
