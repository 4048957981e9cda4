"""Adapters on the server: by name in requests, on the list of models, loaded and unloaded while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import llms
from assay import LLM, ConfigError
from assay.lora.request import LoRARequest
from assay.server.launch import load_models
from assay.server.settings import AdapterSpec, ModelSpec, RequestPolicy, ServerSettings
from served import Client, serving

TEXT = "the house by the river"
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
CHANGING = ServerSettings(changes_adapters=True)


def save_adapter(folder: Path, seed: int, num_labels: int = 3) -> str:
    """An adapter of the shared classifier's kind, with a classifier of its own."""
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(llms.folder(num_labels=num_labels))
    adapted = get_peft_model(base, LoraConfig(task_type=TaskType.SEQ_CLS, r=4, target_modules=["query", "value"]))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    adapted.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        "a": save_adapter(root / "a", seed=1),
        "b": save_adapter(root / "b", seed=2),
        "one": save_adapter(root / "one", seed=3, num_labels=1),
    }


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with llms.load(enable_lora=True) as made:
        yield made


@pytest.fixture
def client(llm: LLM) -> Iterator[Client]:
    with serving(llm, CHANGING) as made:
        yield made


@pytest.fixture(scope="module")
def changing_client(llm: LLM) -> Iterator[Client]:
    with serving(llm, CHANGING) as made:
        yield made


def classify(client: Client, model: str | None) -> Any:
    body = {"input": TEXT} if model is None else {"input": TEXT, "model": model}
    return client.ok("/classify", body)


def test_an_adapter_answers_under_its_name(client: Client, llm: LLM, folders: dict[str, str]) -> None:
    assert client.post(LOAD, {"lora_name": "a", "lora_path": folders["a"]}).text == (
        "Success: LoRA adapter 'a' added successfully."
    )
    reply = classify(client, "a")
    request = LoRARequest("a", 1, folders["a"])
    (offline,) = llm.classify(TEXT, lora_request=request)
    (plain,) = llm.classify(TEXT)
    assert (reply["model"], reply["data"][0]["probs"]) == ("a", pytest.approx(offline.outputs.probs, abs=0))
    assert (
        classify(client, None)["data"][0]["probs"] == classify(client, "m")["data"][0]["probs"] == plain.outputs.probs
    )
    assert offline.outputs.probs != plain.outputs.probs


def test_cards_name_the_parent(client: Client, folders: dict[str, str]) -> None:
    client.post(LOAD, {"lora_name": "a", "lora_path": folders["a"]})
    base, card = client.get("/v1/models").json()["data"]
    assert (base["id"], base["parent"]) == ("m", None)
    assert (card["id"], card["parent"], card["root"], card["max_model_len"]) == ("a", "m", folders["a"], None)


def test_loading_twice_needs_load_inplace(client: Client, folders: dict[str, str]) -> None:
    client.post(LOAD, {"lora_name": "a", "lora_path": folders["a"]})
    first = classify(client, "a")["data"]
    error = client.error(LOAD, {"lora_name": "a", "lora_path": folders["b"]})
    assert (error["type"], error["message"]) == (
        "InvalidUserInput",
        "The lora adapter 'a' has already been loaded. If you want to load the adapter in place, set 'load_inplace' to "
        "True.",
    )
    assert classify(client, "a")["data"] == first
    body = {"lora_name": "a", "lora_path": folders["b"], "load_inplace": True}
    assert client.post(LOAD, body).status_code == 200
    assert classify(client, "a")["data"] != first


def test_an_unloaded_adapter_is_gone(client: Client, folders: dict[str, str]) -> None:
    client.post(LOAD, {"lora_name": "a", "lora_path": folders["a"]})
    assert client.post(UNLOAD, {"lora_name": "a"}).text == "Success: LoRA adapter 'a' removed successfully."
    assert "does not exist" in client.error("/classify", {"input": TEXT, "model": "a"}, 404)["message"]
    error = client.error(UNLOAD, {"lora_name": "a"}, 404)
    assert (error["type"], error["message"]) == ("NotFoundError", "The lora adapter 'a' cannot be found.")


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "message"),
    [
        (LOAD, {}, 400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided."),
        (LOAD, {"lora_name": "x", "lora_path": ""}, 400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must"),
        (
            LOAD,
            {"lora_name": "m", "lora_path": "/x"},
            400,
            "InvalidUserInput",
            "'m' conflicts with a served base",
        ),
        (
            LOAD,
            {"lora_name": "x", "lora_path": "/no/such"},
            404,
            "NotFoundError",
            "Loading lora x failed: No adapter found for /no/such",
        ),
        (LOAD, {"lora_name": "x", "lora_path": 3}, 400, "Bad Request", "Input should be a valid string"),
        (
            LOAD,
            {"lora_name": "x", "lora_path": "/x", "base_model_name": "y"},
            400,
            "BadRequestError",
            "no served model",
        ),
        (LOAD, [], 400, "Bad Request", "validation error"),
        (UNLOAD, {}, 400, "InvalidUserInput", "'lora_name' needs to be provided to unload a LoRA adapter."),
        (UNLOAD, {"lora_name": "m"}, 404, "NotFoundError", "The lora adapter 'm' cannot be found."),
    ],
)
def test_wrong_changes(client: Client, path: str, body: Any, status: int, kind: str, message: str) -> None:
    error = client.error(path, body, status)
    assert error["type"] == kind
    assert message in error["message"]


PATHS = st.one_of(st.none(), st.text().map("/{}".format), st.text().map("~{}".format), st.just("/" + "x" * 5000))
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.lists(st.integers()))


@settings(max_examples=150, deadline=None)
@given(
    path=st.sampled_from((LOAD, UNLOAD)),
    body=st.fixed_dictionaries(
        {},
        optional={
            "lora_name": st.one_of(VALUES, st.just("a")),
            "lora_path": st.one_of(PATHS, st.integers()),
            "load_inplace": VALUES,
            "base_model_name": st.one_of(VALUES, st.just("m")),
        },
    ),
)
def test_no_body_is_a_fault_of_the_server(changing_client: Client, path: str, body: Any) -> None:
    assert 400 <= changing_client.post(path, body).status_code < 500


def test_an_adapter_that_does_not_fit_is_a_400(client: Client, folders: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 64, "lora_alpha": 8}')
    error = client.error(LOAD, {"lora_name": "x", "lora_path": str(tmp_path)})
    assert error["message"] == "Loading lora x failed: LoRA rank 64 is greater than max_lora_rank 16."
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "use_dora": true}')
    error = client.error(LOAD, {"lora_name": "x", "lora_path": str(tmp_path)})
    assert "assay does not yet support DoRA." in error["message"] and str(tmp_path) not in error["message"]
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["m"]


def test_an_adapter_does_what_its_own_head_can(client: Client, folders: dict[str, str]) -> None:
    pair = {"query": "a", "documents": ["b", "c"], "model": "one"}
    assert client.post("/rerank", pair).status_code == 404
    client.post(LOAD, {"lora_name": "one", "lora_path": folders["one"]})
    assert len(client.ok("/rerank", pair)["results"]) == 2
    assert classify(client, "one")["data"][0]["num_classes"] == 1
    assert client.post("/rerank", {"query": "a", "documents": ["b"], "model": "m"}).status_code in (400, 404)


def test_metrics_count_adapters_under_their_model(client: Client, folders: dict[str, str]) -> None:
    client.post(LOAD, {"lora_name": "a", "lora_path": folders["a"]})
    classify(client, "a")
    text = client.get("/metrics").text
    assert 'vllm:request_success_total{model_name="m"} 1.0' in text and 'model_name="a"' not in text


def test_the_routes_are_there_only_where_allowed(llm: LLM) -> None:
    with serving(llm) as client:
        assert client.post(LOAD, {"lora_name": "a", "lora_path": "/x"}).status_code == 404
        assert LOAD not in client.get("/openapi.json").json()["paths"]


def test_the_routes_are_described(client: Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {LOAD, UNLOAD} <= set(paths)


def test_adapters_of_the_command_line(folders: dict[str, str]) -> None:
    made = ServerSettings(
        models=(ModelSpec(names=("m",), source=str(llms.folder()), keywords={"enable_lora": True}),),
        adapters=(AdapterSpec(name="a", path=folders["a"]), AdapterSpec(name="b", path=folders["b"])),
        requests=RequestPolicy(),
    )
    with ExitStack() as stack:
        table = load_models(made, stack)
        assert [model.name for model in (*table, *table.adapters)] == ["m", "a", "b"]
        assert table.adapters[0].engine is table.default.engine


def test_adapters_need_a_model_that_takes_them(folders: dict[str, str]) -> None:
    made = ServerSettings(
        models=(ModelSpec(names=("m",), source=str(llms.folder())),),
        adapters=(AdapterSpec(name="a", path=folders["a"]),),
    )
    with ExitStack() as stack, pytest.raises(ConfigError, match=r"adapter 'a': no served model takes adapters"):
        load_models(made, stack)
