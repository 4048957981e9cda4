"""Every key of a body changes the reply, be it to a refusal; those that do not are listed with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import pytest

import llms
from assay.server.dialects import hf, tei
from assay.server.dialects import vllm_schema as vllm
from assay.server.openapi import BODIES
from served import Client, serving

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} end {% endfor %}{{ x }}"
    "{% if add_generation_prompt %}answer{% endif %}"
)
SCORE_TEMPLATE = "{{ messages[0].content }} | {{ messages[1].content }} {{ instruction }} {{ x }}"
TEXT: Final = "the red house has a door and a roof and a garden with trees and a wall"
LONG: Final = " ".join(f"word{index}" for index in range(180))
MESSAGES: Final = {"messages": [{"role": "user", "content": TEXT}]}
RANKED: Final = {"query": "the house", "documents": [TEXT, "nothing of the kind in here"]}
PAIRED: Final = RANKED["documents"]

OTHER: Final[dict[str, Any]] = {
    "model": "alias",
    "truncate_prompt_tokens": 12,
    "truncation_side": "left",
    "padding": "max_length",
    "request_id": "other",
    "priority": 3,
    "mm_processor_kwargs": {"num_crops": 4},
    "media_io_kwargs": {"image": {"mode": "L"}},
    "return_details": True,
    "use_activation": False,
    "raw_scores": True,
    "long_input": {"stride": 40},
    "top_k": 1,
    "threshold": 0.5,
    "return_scores": True,
    "add_generation_prompt": True,
    "continue_final_message": True,
    "chat_template": "{{ messages[0].content }}",
    "chat_template_kwargs": {"x": "more"},
    "embed_dtype": "float16",
    "endianness": "big",
    "encoding_format": "float",
    "task": "token_embed",
    "dimensions": 3,
    "max_tokens_per_query": 1,
    "max_tokens_per_doc": 1,
    "instruction": "be strict",
    "top_n": 1,
    "truncation": True,
    "truncate": False,
    "truncation_direction": "Left",
    "return_text": True,
    "parameters": {"top_k": 1},
}
"""A value of each key that must be seen in the reply. Of add_special_tokens it is the opposite of the default."""
UNSEEN: Final = {
    "user": "described as not used",
    "cache_salt": "the same numbers out of another part of the cache: test_cache_salts_keep_tenants_apart",
    "timeout_ms": "test_deadlines_are_a_408",
    "return_documents": "vLLM returns documents always; other replies: test_server_infinity, test_server_voyage",
}


@dataclass(frozen=True, slots=True)
class Case:
    """A body of a schema; `changes` replaces keys of it for one of the fields, where the field counts only then."""

    kind: str
    path: str
    schema: Any
    body: dict[str, Any]
    changes: dict[str, dict[str, Any]]


CUT: Final = {"truncate_prompt_tokens": 16}
CASES: Final = [
    Case("classifier", "/classify", vllm.ClassifyCompletion, {"input": TEXT}, {"truncation_side": CUT}),
    Case("classifier", "/classify", vllm.ClassifyChat, MESSAGES, {"truncation_side": CUT}),
    Case("reranker", "/rerank", vllm.Rerank, RANKED, {"truncation_side": CUT, "truncation": {"documents": [LONG]}}),
    Case("reranker", "/v2/rerank", vllm.Rerank, RANKED, {"truncation_side": CUT, "truncation": {"documents": [LONG]}}),
    Case("embedder", "/pooling", vllm.PoolingCompletion, {"input": TEXT}, {"truncation_side": CUT}),
    Case("classifier", "/pooling", vllm.PoolingChat, MESSAGES, {"truncation_side": CUT}),
    Case("embedder", "/embeddings", vllm.Embeddings, {"input": TEXT}, {"truncation_side": CUT}),
    Case("classifier", "/predict", tei.Predict, {"inputs": LONG}, {}),
    Case("reranker", "/rerank", tei.RerankTexts, {"query": "the house", "texts": [LONG, TEXT]}, {}),
    Case("classifier", "/", hf.TextClassification, {"inputs": TEXT, "parameters": {}}, {}),
    *(
        Case("reranker", "/score", schema, {left: "the house", right: PAIRED}, {"truncation_side": CUT})
        for schema, left, right in (
            (vllm.ScoreDocuments, "queries", "documents"),
            (vllm.ScoreItems, "queries", "items"),
            (vllm.ScoreData, "data_1", "data_2"),
            (vllm.ScoreText, "text_1", "text_2"),
        )
    ),
]


@pytest.fixture(scope="module")
def clients() -> Iterator[dict[str, Client]]:
    """A server for each kind of model, with templates that show all they are given."""
    with ExitStack() as stack:
        models = {
            "classifier": llms.load(chat_template=CHAT_TEMPLATE),
            "reranker": llms.load(num_labels=1, score_template=SCORE_TEMPLATE),
            "embedder": llms.load(llms.MODEL),
        }
        yield {name: stack.enter_context(serving(stack.enter_context(llm))) for name, llm in models.items()}


def test_every_schema_is_here() -> None:
    described = {schema for path, schemas in BODIES.items() if "token" not in path for schema in schemas}
    changes = {vllm.LoadAdapter, vllm.UnloadAdapter}  # test_server_lora
    assert described - {case.schema for case in CASES} == {tei.Decode, *changes}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.path} {case.schema.__name__}")
def test_every_key_is_seen_in_the_reply(case: Case, clients: dict[str, Client]) -> None:
    client = clients[case.kind]
    silent = []
    for name, field in case.schema.model_fields.items():
        if field.is_required() or name in UNSEEN:
            continue
        base = {**case.body, **case.changes.get(name, {})}
        if "embed_dtype" in case.schema.model_fields:
            base.setdefault("encoding_format", "base64")
        value = not field.default if name == "add_special_tokens" else OTHER[name]
        if seen(client.post(case.path, base)) == seen(client.post(case.path, {**base, name: value})):
            silent.append(name)
    assert silent == []


def seen(response: Any) -> tuple[int, Any]:
    """What a client sees of a reply, without what differs from one to the next."""
    reply = response.json()
    if isinstance(reply, dict):
        reply = {**reply, "created": 0, "id": "other" in str(reply.get("id"))}
    return response.status_code, reply
