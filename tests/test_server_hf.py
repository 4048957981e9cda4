"""The dialect of Hugging Face's inference API, as huggingface_hub's client speaks it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers

import llms
import tiny_models
from assay import LLM
from served import Client, serving, shared_client

TEXT = "Loved the new café"


@pytest.fixture(scope="module")
def client() -> Client:
    return shared_client()


def expected(scores: Any, top_k: int | None = None) -> list[dict[str, Any]]:
    order = sorted(range(3), key=lambda index: -scores[index])[:top_k]
    return [{"label": llms.LABELS[index], "score": scores[index]} for index in order]


@pytest.fixture
def hub(client: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[huggingface_hub.InferenceClient]:
    """The hub's own client, whose connection ends in the application; its HTTP library differs by release."""
    library = importlib.import_module(type(huggingface_hub.get_session()).__module__.partition(".")[0])

    def answer(request: Any) -> Any:
        sent = client.http.request(request.method, str(request.url), content=request.read(), headers=request.headers)
        reply = client.run(sent)
        return library.Response(reply.status_code, content=reply.content, headers=reply.headers, request=request)

    monkeypatch.setattr(
        "huggingface_hub.utils._http._GLOBAL_CLIENT_FACTORY",
        lambda: library.Client(transport=library.MockTransport(answer)),
    )
    huggingface_hub.close_session()
    yield huggingface_hub.InferenceClient(model="http://test", token="k")
    huggingface_hub.close_session()


def test_the_hubs_client_reads_every_label(hub: huggingface_hub.InferenceClient) -> None:
    (output,) = llms.shared().classify(TEXT, use_tqdm=False)
    for top_k in (None, 1, 2, 9):
        found = hub.text_classification(TEXT, top_k=top_k)
        assert [{"label": each.label, "score": each.score} for each in found] == expected(output.outputs.probs, top_k)
    logits = llms.logits(TEXT)
    for name, wanted in (("none", logits), ("sigmoid", logits.sigmoid()), ("softmax", logits.softmax(-1))):
        scores = {each.label: each.score for each in hub.text_classification(TEXT, function_to_apply=name)}
        assert llms.close([scores[llms.LABELS[index]] for index in range(3)], wanted)


def test_zero_shot_is_refused_by_name(hub: huggingface_hub.InferenceClient) -> None:
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="candidate_labels"):
        hub.zero_shot_classification(TEXT, ["a", "b"])


def test_the_keys_tell_a_pipelines_body_from_teis(client: Client) -> None:
    (output,) = llms.shared().classify(TEXT, use_tqdm=False)
    row = expected(output.outputs.probs)
    for parameters in ({}, None, {"top_k": None, "function_to_apply": None, "truncation": None, "padding": True}):
        assert client.ok("/", {"inputs": TEXT, "parameters": parameters}) == [row]
    assert client.ok("/", {"inputs": TEXT}) == client.ok("/predict", {"inputs": TEXT})
    assert client.ok("/", {"inputs": TEXT}, headers={"X-Assay-Dialect": "hf"}) == [row]
    pair = {"text": TEXT, "text_pair": "or not"}
    first, second = client.ok("/", {"inputs": [pair, TEXT], "parameters": {}})
    scores = {each["label"]: each["score"] for each in first}
    wanted = llms.logits(TEXT, "or not").softmax(-1)
    assert llms.close([scores[llms.LABELS[index]] for index in range(3)], wanted) and second == row
    reranker = shared_client(1)
    body = {"query": "q", "texts": ["a", "b c"]}
    assert reranker.ok("/", body) == reranker.ok("/rerank", body)


def test_the_default_function_is_the_pipelines(tmp_path: Path) -> None:
    for problem, wanted in (("regression", "logit"), ("multi_label_classification", "sigmoid")):
        folder = tiny_models.make(tmp_path / problem, "Bert", llms.CLASSIFIER, num_labels=3, problem_type=problem)
        with LLM(folder) as llm, serving(llm) as served:
            raw = served.ok("/", {"inputs": TEXT, "parameters": {"function_to_apply": "none"}})[0]
            response = served.post("/", {"inputs": TEXT, "parameters": {}})
            assert response.headers["x-assay-score-kind"] == wanted
            logits = torch.tensor([each["score"] for each in raw])
            scores = torch.tensor([each["score"] for each in response.json()[0]])
            assert torch.allclose(scores, logits if wanted == "logit" else logits.sigmoid(), atol=1e-6)


PAIR = {"text": TEXT, "text_pair": "or not"}


@pytest.mark.parametrize(
    "parameters",
    [{}, {"top_k": 1}, {"top_k": 2}, {"top_k": None}, {"function_to_apply": "sigmoid"}, {"padding": True}],
    ids=str,
)
@pytest.mark.parametrize("inputs", [TEXT, [TEXT], [TEXT, "or not"], PAIR, [PAIR, PAIR]], ids=str)
def test_invocations_answers_what_the_pipeline_returns(client: Client, inputs: Any, parameters: dict[str, Any]) -> None:
    model, tokenizer = llms.reference()
    pipeline = transformers.TextClassificationPipeline(model=model, tokenizer=tokenizer, device="cpu")
    wanted = pipeline(inputs, **parameters)
    found = client.ok("/invocations", {"inputs": inputs, "parameters": parameters})
    assert rounded(found) == rounded(wanted)


def test_a_header_tells_a_pipelines_inputs_from_teis(client: Client) -> None:
    body, hf = {"inputs": [TEXT, "or not"]}, {"X-Assay-Dialect": "hf"}
    assert client.ok("/invocations", body, headers=hf) == client.ok("/invocations", {**body, "parameters": {}})
    assert client.ok("/invocations", body) == client.ok("/predict", body), "one pair, without the header"
    response = client.post("/invocations", {"texts": ["a"]}, headers=hf)
    assert response.status_code == 400 and "inputs" in response.json()["error"]
    assert "speaks" in client.error("/invocations", body, headers={"X-Assay-Dialect": "klingon"})["message"]


def rounded(value: Any) -> Any:
    """Scores to five places."""
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return {"label": value["label"], "score": pytest.approx(value["score"], abs=1e-5)}


@pytest.mark.parametrize("path", ["/", "/invocations"])
def test_parameters_of_the_tokenizer_count(client: Client, path: str) -> None:
    def scores(inputs: Any, **parameters: Any) -> Any:
        rows = client.ok(path, {"inputs": inputs, "parameters": {"top_k": None, **parameters}})
        row = rows[0] if path == "/" else rows
        return [{each["label"]: each["score"] for each in row}[name] for name in llms.LABELS.values()]

    long = "the red house has a door and a roof and a garden"
    options: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"max_length": 6}, {"truncate_prompt_tokens": 6}),
        ({"max_length": 6, "truncation": True}, {"truncate_prompt_tokens": 6}),
        ({"max_length": 6, "truncation": False}, {}),
        ({"add_special_tokens": False}, {"add_special_tokens": False}),
    ]
    for parameters, wanted in options:
        (output,) = llms.shared().classify(long, tokenization_kwargs=wanted, use_tqdm=False)
        assert scores(long, **parameters) == output.outputs.probs
    for parameters in ({"padding": "max_length"}, {"batch_size": 8, "num_workers": 2}, {"truncation": "longest_first"}):
        assert scores(long, **parameters) == scores(long)


@pytest.mark.parametrize("path", ["/", "/invocations"])
@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("candidate_labels", ["a"], "zero-shot classification is not served"),
        ("return_all_scores", True, "pass top_k"),
        ("stride", 4, "extra_forbidden"),
        ("truncation", "only_second", "literal_error"),
        ("max_length", 0, "greater_than_equal"),
        ("max_length", 2000, "cannot be greater than max_model_len"),
    ],
)
def test_a_parameter_that_is_not_honoured_is_refused_by_name(
    client: Client, path: str, name: str, value: Any, text: str
) -> None:
    response = client.post(path, {"inputs": TEXT, "parameters": {name: value}})
    assert response.status_code == 400
    assert name in response.json()["error"] and text in response.json()["error"]
    assert client.ok(path, {"inputs": TEXT, "parameters": {name: None}})


def test_parameters_beside_other_bodies_are_refused_by_name(client: Client) -> None:
    parameters = {"function_to_apply": "none"}
    for body in ({"input": TEXT}, {"messages": [{"role": "user", "content": TEXT}]}):
        assert client.error("/invocations", {**body, "parameters": parameters})["param"] == "parameters"
    reranker = shared_client(1)
    for body in ({"query": "q", "texts": ["a"]}, {"query": "q", "documents": ["a"]}, {"text_1": "q", "text_2": "a"}):
        response = reranker.post("/invocations", {**body, "parameters": parameters})
        assert response.status_code == 400 and "parameters" in response.text
        for empty in ({}, None):
            assert reranker.ok("/invocations", {**body, "parameters": empty})
    for path in ("/predict", "/"):
        body = {"inputs": TEXT, "parameters": parameters}
        tei = client.post(path, body, headers={"X-Assay-Dialect": "tei"})
        assert tei.status_code == 422 and "`parameters`" in tei.json()["error"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"inputs": [], "parameters": {}}, "at least one prompt"),
        ({"parameters": {}}, "missing"),
        ({"inputs": 5, "parameters": {}}, "inputs"),
        ({"inputs": "x", "parameters": {"top_k": 0}}, "top_k"),
        ({"inputs": "x", "parameters": {"function_to_apply": "relu"}}, "literal_error"),
        ({"inputs": "word " * 300, "parameters": {"truncation": False}}, "reduce the length"),
        ({"inputs": [{"text": "a", "text_pair": 5}], "parameters": {}}, "text_pair"),
    ],
)
def test_errors_are_one_string(client: Client, body: dict[str, Any], text: str) -> None:
    response = client.post("/", body)
    assert response.status_code == 400, response.text
    assert list(response.json()) == ["error"] and text in response.json()["error"]


def test_what_a_model_cannot_do_is_said(client: Client) -> None:
    assert client.ok("/", {"inputs": "word " * 300, "parameters": {}}), "too long is cut"
    softmax = shared_client(1).post("/", {"inputs": "x", "parameters": {"function_to_apply": "softmax"}})
    assert softmax.status_code == 400 and "softmax needs two labels" in softmax.json()["error"]
    embedder = shared_client(1, llms.MODEL).post("/", {"inputs": "x", "parameters": {}})
    assert embedder.status_code == 400 and "is not a text classifier" in embedder.json()["error"]
