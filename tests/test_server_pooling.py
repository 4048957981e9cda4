"""POST /pooling: tasks, number formats and byte orders."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import pytest
import torch

import llms
from assay.server.dialects.binary import DTYPES, bytes_of
from served import Client, serving, shared_client

TEXTS = ["one text", "another, longer text"]


@pytest.fixture(scope="module")
def client() -> Client:
    return shared_client()


def test_pooling_classify_is_encode(client: Client) -> None:
    outputs = llms.shared().encode(TEXTS, pooling_task="classify", use_tqdm=False)
    for task in ({}, {"task": "classify"}):
        reply = client.ok("/pooling", {"model": "m", "input": TEXTS, **task})
        assert list(reply) == ["id", "object", "created", "model", "data", "usage"]
        assert reply["id"].startswith("pooling-")
        assert [item["data"] for item in reply["data"]] == [output.outputs.data.tolist() for output in outputs]
        assert [item["object"] for item in reply["data"]] == ["pooling"] * 2
        assert reply["usage"]["prompt_tokens"] == sum(len(output.prompt_token_ids) for output in outputs)
        assert reply["usage"]["completion_tokens"] == 0
        assert reply["usage"]["prompt_tokens_details"] is reply["usage"]["completion_tokens_details"] is None


def test_pooling_of_a_reranker_is_one_value() -> None:
    (output,) = llms.shared(num_labels=1).encode("x", pooling_task="classify", use_tqdm=False)
    assert shared_client(1).ok("/pooling", {"input": "x"})["data"][0]["data"] == output.outputs.data.tolist()
    assert output.outputs.data.shape == (1,)


def test_pooling_of_tokens_has_a_row_per_token() -> None:
    llm = llms.shared(llms.TOKENS)
    with serving(llm) as tokens:
        outputs = llm.encode(TEXTS, pooling_task="token_classify", use_tqdm=False)
        reply = tokens.ok("/pooling", {"input": TEXTS})
        assert [item["data"] for item in reply["data"]] == [output.outputs.data.tolist() for output in outputs]
        assert tokens.ok("/invocations", {"input": TEXTS})["data"] == reply["data"]
        assert len(reply["data"][0]["data"]) == len(outputs[0].prompt_token_ids)


@pytest.mark.parametrize(
    ("body", "text", "param"),
    [
        ({"task": "embed"}, "Unsupported task: 'embed' Supported tasks: (", "task"),
        ({"task": "nonsense"}, "Unsupported task: 'nonsense'", "task"),
        ({"task": "plugin"}, "No IOProcessor plugin installed.", "task"),
        ({"task": "score"}, "`score` task was removed; use `classify` instead.", "task"),
        ({"task": "encode"}, "`encode` task was removed", "task"),
        ({"dimensions": 3}, "dimensions is currently not supported", "dimensions"),
    ],
)
def test_pooling_refuses_tasks_it_does_not_run(client: Client, body: dict[str, Any], text: str, param: str) -> None:
    error = client.error("/pooling", {"input": "x", **body})
    assert error["message"].startswith(text)
    assert (error["type"], error["param"]) == ("BadRequestError", param)


def test_pooling_names_the_option_that_switches_the_task() -> None:
    with llms.load(llms.MODEL, pooler_config={"task": "token_embed"}) as llm, serving(llm) as client:
        error = client.error("/pooling", {"input": "x", "task": "embed"})
        assert error["message"] == "Try switching the model's pooling_task via --pooler-config.task embed."


def test_pooling_plugin_form(client: Client) -> None:
    assert client.error("/pooling", {"data": {"a": 1}})["message"].startswith("No IOProcessor plugin installed.")


def unpacked(raw: bytes, dtype: str, endianness: str) -> torch.Tensor:
    kind = getattr(torch, DTYPES[dtype])
    data = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    if endianness not in ("native", sys.byteorder) and kind.itemsize > 1:
        data = data.view(-1, kind.itemsize).flip(1).flatten().contiguous()
    return data.view(kind).float()


@pytest.mark.parametrize("endianness", ["native", "little", "big"])
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_encodings_round_trip(client: Client, dtype: str, endianness: str) -> None:
    body = {"input": TEXTS, "embed_dtype": dtype, "endianness": endianness}
    exact = [torch.tensor(item["data"]) for item in client.ok("/pooling", {"input": TEXTS})["data"]]
    wanted = [data.to(getattr(torch, DTYPES[dtype])).float() for data in exact]  # the rounding asked for, no other
    for item, data in zip(client.ok("/pooling", {**body, "encoding_format": "base64"})["data"], wanted, strict=True):
        assert torch.equal(unpacked(base64.b64decode(item["data"]), dtype, endianness), data)
    response = client.post("/pooling", {**body, "encoding_format": "bytes"})
    assert response.headers["content-type"] == "application/octet-stream"
    metadata = json.loads(response.headers["metadata"])
    assert list(metadata) == ["id", "created", "model", "data", "usage"]
    assert list(metadata["usage"]) == ["prompt_tokens", "total_tokens"]
    for entry, data in zip(metadata["data"], wanted, strict=True):
        assert (entry["embed_dtype"], entry["endianness"], entry["shape"]) == (dtype, endianness, [3])
        assert torch.equal(unpacked(response.content[entry["start"] : entry["end"]], dtype, endianness), data)
    bare = client.post("/pooling", {**body, "encoding_format": "bytes_only"})
    assert bare.content == response.content and "metadata" not in bare.headers


def test_bytes_of_swaps_the_order_of_each_value() -> None:
    data = torch.tensor([1.0, -2.5])
    assert bytes_of(data, "float32", "little") == b"\x00\x00\x80\x3f\x00\x00\x20\xc0"
    assert bytes_of(data, "float32", "big") == b"\x3f\x80\x00\x00\xc0\x20\x00\x00"
    assert bytes_of(data, "bfloat16", "big") == b"\x3f\x80\xc0\x20"
    assert bytes_of(data, "fp8_e5m2", "big") == bytes_of(data, "fp8_e5m2", "little")


@pytest.mark.parametrize("field", ["encoding_format", "embed_dtype", "endianness"])
def test_bad_literals_are_named(client: Client, field: str) -> None:
    error = client.error("/pooling", {"input": "x", field: "bad-literal"})
    assert "literal_error" in error["message"] and "bad-literal" in error["message"]
