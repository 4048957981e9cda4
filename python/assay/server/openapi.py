"""What the OpenAPI page says of each route: its bodies, and the forms of its errors."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from assay.server.dialects import tei
from assay.server.dialects import vllm_schema as vllm

BODIES: Final[dict[str, tuple[type[BaseModel], ...]]] = {
    "/classify": (vllm.ClassifyCompletion, vllm.ClassifyChat),
    "/score": (vllm.ScoreDocuments, vllm.ScoreItems, vllm.ScoreData, vllm.ScoreText),
    "/rerank": (vllm.Rerank, tei.RerankTexts),
    "/v2/rerank": (vllm.Rerank,),
    "/pooling": (vllm.PoolingCompletion, vllm.PoolingChat),
    "/embeddings": (vllm.Embeddings,),
    "/predict": (tei.Predict,),
    "/tokenize": (vllm.TokenizeCompletion, vllm.TokenizeChat),
    "/detokenize": (vllm.Detokenize,),
}
SUMMARIES: Final = {
    "/classify": "Label probabilities of texts, or of one conversation",
    "/score": "Relevance of pairs, in their order",
    "/rerank": "Documents by their relevance to a query, best first",
    "/v2/rerank": "The same, in the second version of Cohere's API",
    "/pooling": "Results of the active task as numbers, base64 or bytes",
    "/embeddings": "Embeddings, as OpenAI gives them",
    "/predict": "Label probabilities, as text-embeddings-inference gives them",
    "/invocations": "Any of the above, recognised by its body",
    "/tokenize": "Token ids of a text",
    "/detokenize": "The text of token ids",
}
_ERRORS: Final = {
    400: "The body does not fit, or asks for what cannot be done",
    401: "An API key is needed",
    404: "No such model, or nothing served here can do this",
    408: "The deadline passed",
    413: "The body is too large",
    429: "Too much work waits; Retry-After says for how long",
    503: "The server is starting or stopping",
}


def documented(path: str) -> dict[str, Any]:
    """Keywords of `add_api_route` for an inference route."""
    schemas = BODIES.get(path) or tuple(schema for group in BODIES.values() for schema in group)
    # Inlined definitions: the bodies are read by hand, so that the framework knows nothing of them.
    options = [schema.model_json_schema(ref_template="#/components/schemas/{model}") for schema in schemas]
    for option in options:
        option.pop("$defs", None)
    content = {"application/json": {"schema": options[0] if len(options) == 1 else {"anyOf": options}}}
    return {
        "summary": SUMMARIES[path],
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
        "responses": {status: {"description": text} for status, text in _ERRORS.items()},
    }


def definitions() -> dict[str, Any]:
    """Schemas that bodies refer to, for the page's components."""
    schemas = [(schema, "validation") for group in BODIES.values() for schema in group]
    _, top = models_json_schema(schemas, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    found: dict[str, Any] = top.get("$defs", {})
    return found
