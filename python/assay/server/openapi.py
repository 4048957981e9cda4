"""What the OpenAPI page says of each route: its bodies, and the forms of its errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from assay.server.dialects import hf, tei
from assay.server.dialects import vllm_schema as vllm

BODIES: Final[dict[str, tuple[type[BaseModel], ...]]] = {
    "/classify": (vllm.ClassifyCompletion, vllm.ClassifyChat),
    "/score": (vllm.ScoreDocuments, vllm.ScoreItems, vllm.ScoreData, vllm.ScoreText),
    "/rerank": (vllm.Rerank, tei.RerankTexts),
    "/v2/rerank": (vllm.Rerank,),
    "/pooling": (vllm.PoolingCompletion, vllm.PoolingChat),
    "/embeddings": (vllm.Embeddings,),
    "/predict": (tei.Predict,),
    "/": (hf.TextClassification, tei.Predict, tei.RerankTexts),
    "/tokenize": (vllm.TokenizeCompletion, vllm.TokenizeChat, tei.TokenizeTexts),
    "/detokenize": (vllm.Detokenize,),
    "/decode": (tei.Decode,),
    "/v1/load_lora_adapter": (vllm.LoadAdapter,),
    "/v1/unload_lora_adapter": (vllm.UnloadAdapter,),
}
CHANGES: Final = frozenset((vllm.LoadAdapter, vllm.UnloadAdapter))
"""Bodies that ask for no inference: /invocations takes all others."""
SUMMARIES: Final = {
    "/classify": "Label probabilities of texts, or of one conversation",
    "/score": "Relevance of pairs, in their order",
    "/rerank": "Documents by their relevance to a query, best first",
    "/v2/rerank": "The same, in the second version of Cohere's API",
    "/pooling": "Results of the active task as numbers, base64 or bytes",
    "/embeddings": "Embeddings, as OpenAI gives them",
    "/predict": "Label probabilities, as text-embeddings-inference gives them",
    "/": "Label probabilities, as Hugging Face's inference API gives them, or text-embeddings-inference",
    "/invocations": "Any of the above, recognised by its body",
    "/tokenize": "Token ids of a text",
    "/detokenize": "The text of token ids",
    "/decode": "The same, as text-embeddings-inference gives it",
    "/v1/load_lora_adapter": "Serve a LoRA adapter",
    "/v1/unload_lora_adapter": "Serve it no longer",
}
HEALTH: Final = ("/health", "/ping", "/ready")
GETS: Final = {
    "/health": "200 while every engine serves",
    "/ping": "The same",
    "/ready": "200 once every model has answered an input, until the server stops",
    "/version": "The version",
    "/load": "Requests being worked on",
    "/metrics": "Metrics in the form of Prometheus",
    "/v1/models": "What is served, as OpenAI lists it",
    "/info": "The default model, as text-embeddings-inference describes it",
    "/tokenizer_info": "The default model's tokenizer, as its files describe it",
}
_ERRORS: Final = {
    400: "The body does not fit, or asks for what cannot be done",
    401: "An API key is needed",
    404: "No such model, or nothing served here can do this",
    408: "The deadline passed",
    413: "The body is too large",
    422: "The same as 400, in the dialect of text-embeddings-inference",
    424: "The model is of another kind, in the same dialect",
    429: "Too much work waits; Retry-After says for how long",
    501: "The model is not running this task",
    503: "The server is starting or stopping",
}


def page(title: str, version: str, posts: Iterable[str], gets: Iterable[str]) -> dict[str, Any]:
    """The whole page. posts, gets: the paths that are served; `/v1/X` is described as `/X` is."""
    schemas = list(dict.fromkeys(schema for group in BODIES.values() for schema in group))
    template = "#/components/schemas/{model}"
    references, top = models_json_schema([(schema, "validation") for schema in schemas], ref_template=template)
    by_schema = {schema: references[schema, "validation"] for schema in schemas}
    paths: dict[str, Any] = {path: {"get": _get(path)} for path in gets}
    for path in posts:
        paths.setdefault(path, {})["post"] = _get(path, "post") if path in GETS else _post(path, by_schema)
    components = {"schemas": top.get("$defs", {}), "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": components,
        "security": [{}, {"key": []}],
    }


def _get(path: str, method: str = "get") -> dict[str, Any]:
    responses = {"200": {"description": "As described"}, **_responses(503 if path in HEALTH else 401)}
    return {"summary": GETS[path], "operationId": f"{method}{_words(path)}", "responses": responses}


def _post(path: str, by_schema: Mapping[type[BaseModel], Any]) -> dict[str, Any]:
    base = path if path in SUMMARIES else path.removeprefix("/v1")
    bodies = BODIES.get(base) or [body for body in by_schema if body not in CHANGES]
    options = [by_schema[body] for body in bodies]
    schema = options[0] if len(options) == 1 else {"anyOf": options}
    return {
        "summary": SUMMARIES[base],
        "operationId": f"post{_words(path)}",
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {"200": {"description": "The answer"}, **_responses(*_ERRORS)},
    }


def _responses(*statuses: int) -> dict[str, Any]:
    return {str(status): {"description": _ERRORS[status]} for status in statuses}


def _words(path: str) -> str:
    return path.replace("/", "_")
