"""The dialect of text-embeddings-inference: its shapes, its scale, its truncation, its errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import llms
import tiny_models
from assay import LLM
from assay.server.settings import RequestPolicy, ServerSettings
from served import Client, serving, shared_client

TEXT = "Loved the new café"


@pytest.fixture(scope="module")
def client() -> Client:
    return shared_client()


def expected(probs: list[float]) -> list[dict[str, Any]]:
    order = sorted(range(len(probs)), key=lambda index: -probs[index])
    return [{"score": probs[index], "label": llms.LABELS[index]} for index in order]


def test_predict_single_pair_and_batch(client: Client) -> None:
    (one,) = llms.shared().classify(TEXT, use_tqdm=False)
    pair = torch.softmax(llms.logits(TEXT, "or not"), -1)
    for single in (TEXT, [TEXT]):
        assert client.ok("/predict", {"inputs": single}) == expected(one.outputs.probs)
    (reply,) = (client.ok("/predict", {"inputs": [TEXT, "or not"]}),)
    found = {entry["label"]: entry["score"] for entry in reply}
    assert llms.close([found[llms.LABELS[index]] for index in range(3)], pair)
    batch = client.ok("/predict", {"inputs": [[TEXT], [TEXT, "or not"]]})
    assert batch == [expected(one.outputs.probs), reply]


@pytest.mark.parametrize("inputs", [[], [[]], [["a", "b", "c"]], [["a"], "b"], 5, None, [5], {"a": 1}])
def test_predict_refuses_other_grammar_with_a_422(client: Client, inputs: Any) -> None:
    response = client.post("/predict", {"inputs": inputs})
    assert response.status_code == 422
    assert set(response.json()) == {"error", "error_type"} and response.json()["error_type"] == "Validation"


def test_long_texts_are_cut_unless_told_not_to(client: Client) -> None:
    long = "word " * 600
    (cut,) = llms.shared().classify(long, truncate_prompt_tokens=-1, use_tqdm=False)
    for truncate in ({}, {"truncate": None}, {"truncate": True}):
        assert client.ok("/predict", {"inputs": long, **truncate}) == expected(cut.outputs.probs)
    words = " ".join(f"w{index}" for index in range(200))
    _, tokenizer = llms.reference()
    for side in ("Left", "left", "Right", "right"):
        tokenizer.truncation_side = side.lower()
        ids = tokenizer(words, truncation=True, max_length=128)["input_ids"]
        tokenizer.truncation_side = "right"
        (kept,) = llms.shared().classify([ids], use_tqdm=False)
        body = {"inputs": words, "truncation_direction": side}
        assert client.ok("/predict", body) == expected(kept.outputs.probs)
    response = client.post("/predict", {"inputs": long, "truncate": False})
    assert response.status_code == 422 and "reduce the length" in response.json()["error"]


def test_rerank_texts_gives_a_bare_list(client: Client) -> None:
    reranker = shared_client(1)
    texts = ["first", "second and longer", "first"]
    outputs = llms.shared(num_labels=1).score("query", texts, use_tqdm=False)
    scores = [output.outputs.score for output in outputs]
    order = sorted(range(3), key=lambda index: -scores[index])
    body = {"query": "query", "texts": texts}
    for path in ("/rerank", "/v1/rerank", "/invocations"):
        assert reranker.ok(path, body) == [{"index": index, "score": scores[index]} for index in order]
    with_text = reranker.ok("/rerank", {**body, "return_text": True, "top_n": 1, "model": "whatever"})
    assert with_text == [{"index": order[0], "text": texts[order[0]], "score": scores[order[0]]}]
    assert reranker.post("/rerank", {"query": "q", "texts": []}).status_code == 422


def test_a_query_longer_than_the_model_is_cut_behind_a_template_too() -> None:
    template = "about | {{ messages[0].content }} | {{ messages[1].content }}"
    texts, query = ["first", "second and longer", "word " * 300], "a " * 300
    with llms.load(num_labels=1, score_template=template) as llm, serving(llm) as client:
        room = (128 - len(llm.encode("about | | ", pooling_task="classify")[0].prompt_token_ids)) // 2
        outputs = llm.score(("a " * room).strip(), texts, truncate_prompt_tokens=-1, use_tqdm=False)
        expected = {index: output.outputs.score for index, output in enumerate(outputs)}
        response = client.post("/rerank", {"query": query, "texts": texts, "raw_scores": False})
        assert response.status_code == 200, response.text
        assert {item["index"]: item["score"] for item in response.json()} == expected
        assert response.headers["x-assay-truncated-items"] == "3"
        refused = client.post("/rerank", {"query": query, "texts": texts, "truncate": False})
        assert refused.status_code == 422 and "reduce the length" in refused.json()["error"]
        named = client.error("/rerank", {"query": query, "documents": texts, "truncate_prompt_tokens": -1})
        assert "truncate_prompt_tokens=128 leaves no room for the document" in named["message"]
        auto = ServerSettings(requests=RequestPolicy(auto_truncate=True))
        with serving(llm, auto) as cutting:
            results = cutting.ok("/rerank", {"query": query, "documents": texts})["results"]
            assert {item["index"]: item["relevance_score"] for item in results} == expected
        windows = client.error("/rerank", {"query": query, "documents": texts, "long_input": {}})
        assert windows["message"] == "long_input: the query and the template leave no room for the text"


def test_a_template_that_leaves_no_room_says_so_in_words_of_the_dialect() -> None:
    template = "about " * 130 + "{{ messages[0].content }} {{ messages[1].content }}"
    with llms.load(num_labels=1, score_template=template) as llm, serving(llm) as client:
        response = client.post("/rerank", {"query": "q", "texts": ["a"]})
        assert response.status_code == 422 and response.json()["error_type"] == "Validation"
        assert response.json()["error"].startswith("the template alone takes ")
        assert "truncate_prompt_tokens" not in response.text


def test_wrong_kind_of_model_is_a_424(client: Client) -> None:
    response = client.post("/rerank", {"query": "q", "texts": ["a"]})
    assert response.status_code == 424 and response.json()["error_type"] == "Backend"
    assert shared_client(1, llms.MODEL).post("/predict", {"inputs": "x"}).status_code == 424


@pytest.mark.parametrize(
    ("num_labels", "config", "kind"),
    [
        (1, {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "sigmoid"),
        (3, {"problem_type": "multi_label_classification"}, "sigmoid"),
        (3, {"problem_type": "regression"}, "softmax"),
    ],
    ids=["raw reranker", "multi label", "regression"],
)
def test_scale_is_a_probability_whatever_the_model_declares(
    num_labels: int, config: dict[str, Any], kind: str, tmp_path: Any
) -> None:
    folder = tiny_models.make(tmp_path, "Bert", llms.CLASSIFIER, num_labels=num_labels, **config)
    with LLM(folder) as llm, serving(llm) as client:
        raw = client.ok("/predict", {"inputs": TEXT, "raw_scores": True})
        response = client.post("/predict", {"inputs": TEXT})
        logits = torch.tensor([entry["score"] for entry in raw], dtype=torch.float64)
        wanted = logits.sigmoid() if kind == "sigmoid" else logits.softmax(-1)
        assert [entry["label"] for entry in response.json()] == [entry["label"] for entry in raw]
        assert torch.allclose(torch.tensor([entry["score"] for entry in response.json()]).double(), wanted, atol=1e-6)
        assert response.headers["x-assay-score-kind"] == kind


def test_info_has_every_key_clients_insist_on(client: Client) -> None:
    info = client.get("/info").json()
    assert (
        list(info)
        == (
            "model_id model_sha model_dtype served_model_name model_type max_concurrent_requests max_input_length "
            "max_batch_tokens max_batch_requests max_client_batch_size auto_truncate tokenization_workers version sha "
            "docker_label"
        ).split()
    )
    assert info["model_type"]["classifier"]["id2label"] == {str(k): v for k, v in llms.LABELS.items()}
    assert info["max_input_length"] == 128 and info["model_dtype"] == "float32"
    assert "reranker" in shared_client(1).get("/info").json()["model_type"]


@pytest.mark.parametrize("num_labels", [3, 1])
def test_info_of_a_token_classifier_has_its_labels(num_labels: int) -> None:
    llm = llms.shared(llms.TOKENS, num_labels)
    with serving(llm) as tokens:
        (kind, maps) = tokens.get("/info").json()["model_type"].popitem()
        assert kind == "classifier"
        assert list(maps["id2label"].values()) == llm.labels and list(maps["label2id"]) == llm.labels
    assert "embedding" in shared_client(1, llms.MODEL).get("/info").json()["model_type"]


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
def test_tokenize_describes_every_token_with_its_place_in_bytes(client: Client, path: str) -> None:
    _, tokenizer = llms.reference()
    texts = ["Loved the new café, 図書館 📚 ok", "plain"]
    reply = client.ok(path, {"inputs": texts, "prompt_name": None, "model": "whatever"})
    for text, tokens in zip(texts, reply, strict=True):
        wanted = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
        assert [token["id"] for token in tokens] == wanted["input_ids"]
        assert all(list(token) == ["id", "text", "special", "start", "stop"] for token in tokens)
        assert [token["special"] for token in tokens] == [bool(mask) for mask in wanted["special_tokens_mask"]]
        assert tokens[0] == {
            "id": tokenizer.cls_token_id,
            "text": "[CLS]",
            "special": True,
            "start": None,
            "stop": None,
        }
        for token, (start, stop) in zip(tokens[1:-1], wanted["offset_mapping"][1:-1], strict=True):
            assert token["text"] == text[start:stop] == text.encode()[token["start"] : token["stop"]].decode()
    assert client.ok(path, {"inputs": texts[0]}) == reply[:1]
    assert client.ok(path, {"inputs": texts, "add_special_tokens": False}) == [tokens[1:-1] for tokens in reply]
    as_vllm = client.ok(path, {"inputs": 5, "prompt": "x"}, headers={"X-Assay-Dialect": "vllm"})
    assert as_vllm["tokens"] == tokenizer("x")["input_ids"]


@pytest.mark.parametrize("path", ["/decode", "/v1/decode"])
def test_decode_gives_a_list_of_texts(client: Client, path: str) -> None:
    _, tokenizer = llms.reference()
    rows = [tokenizer(text)["input_ids"] for text in ("one text", "and another")]
    plain = [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    assert client.ok(path, {"ids": rows}) == client.ok(path, {"ids": rows, "skip_special_tokens": True}) == plain
    assert client.ok(path, {"ids": rows[0]}) == plain[:1]
    assert client.ok(path, {"ids": rows[0], "skip_special_tokens": False}) == [tokenizer.decode(rows[0])]


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/tokenize", {"inputs": []}, "`inputs` cannot be empty"),
        ("/tokenize", {"inputs": ""}, "`inputs` cannot be empty"),
        ("/tokenize", {"inputs": ["a", ""]}, "`inputs` cannot be empty"),
        ("/tokenize", {"inputs": "a", "prompt_name": "no"}, "Available prompts: []"),
        ("/tokenize", {"inputs": None}, "inputs"),
        ("/tokenize", {"inputs": [5]}, "inputs"),
        ("/decode", {"ids": []}, "`ids` cannot be empty"),
        ("/decode", {"ids": [[1], []]}, "`ids` cannot be empty"),
        ("/decode", {"ids": "a"}, "ids"),
        ("/decode", {"ids": [-1]}, "greater_than_equal"),
        ("/decode", {"ids": [2**40]}, ""),
        ("/decode", {"ids": [[1], 2]}, "ids"),
        ("/decode", {"tokens": [1]}, "missing"),
        ("/decode", ["a"], ""),
    ],
)
def test_tokenizing_refuses_in_words_of_the_dialect(client: Client, path: str, body: Any, text: str) -> None:
    response = client.post(path, body)
    assert response.status_code == 422, response.text
    assert set(response.json()) == {"error", "error_type"} and response.json()["error_type"] == "Validation"
    assert text in response.json()["error"]


def test_more_text_than_tokenize_describes_is_refused(client: Client) -> None:
    for inputs in ("a " * 1_000_001, ["a"] * 700_000):
        response = client.post("/tokenize", {"inputs": inputs})
        assert response.status_code == 413 and "at most 2000000 characters" in response.json()["error"]


def test_dialect_header_overrides_detection() -> None:
    client = shared_client(1)
    body = {"query": "q", "documents": ["a"], "texts": ["a", "b"]}
    assert isinstance(client.ok("/rerank", body), list)
    assert "results" in client.ok("/rerank", body, headers={"X-Assay-Dialect": "vllm"})
    assert "speaks" in client.error("/rerank", body, headers={"X-Assay-Dialect": "klingon"})["message"]
    tei = {"X-Assay-Dialect": "tei"}
    assert client.ok("/", {"inputs": "x", "parameters": None}, headers=tei) == client.ok("/predict", {"inputs": "x"})
    assert client.ok("/", body, headers=tei) == client.ok("/rerank", body), "the keys tell TEI's own bodies apart"
