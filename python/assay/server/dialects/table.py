"""The discriminator: which operation a body means on which route. Rows are tried from top to bottom."""

from __future__ import annotations

from typing import Final

from assay.server.dialects import hf, infinity, openai, tei, vllm_classify, vllm_pairs, vllm_pooling, voyage
from assay.server.dialects.base import Row, always, has_key

RERANK: Final = (
    Row(has_key("texts"), tei.RERANK),
    Row(has_key("documents", "raw_scores"), infinity.RERANK),
    Row(voyage.is_voyage, voyage.RERANK),
)
"""Bodies of /rerank that are not vLLM's."""
INVOCATIONS: Final = (
    RERANK[0],
    Row(has_key("inputs", "parameters"), hf.INVOCATION),
    Row(has_key("inputs"), tei.PREDICT),
    *RERANK[1:],
    Row(has_key("query", "documents"), vllm_pairs.RERANK),
    *(Row(has_key(*keys), vllm_pairs.SCORE) for keys, _ in vllm_pairs.SCORE_FORMS),
)
"""Rows of /invocations that do not depend on the model."""
INPUT_ROUTES: Final = {"classify": "/classify", "embed": "/embeddings"}
"""The route that `input` and `messages` mean on /invocations, by the active task; /pooling for any other."""

ROUTES: Final[dict[str, tuple[Row, ...]]] = {
    "/classify": (Row(has_key("input", "raw_scores"), infinity.CLASSIFY), Row(always, vllm_classify.CLASSIFY)),
    "/score": (Row(always, vllm_pairs.SCORE),),
    "/rerank": (*RERANK, Row(always, vllm_pairs.RERANK)),
    "/v2/rerank": (Row(always, vllm_pairs.RERANK_V2),),
    "/pooling": (Row(always, vllm_pooling.POOLING),),
    "/embeddings": (Row(always, openai.EMBEDDINGS),),
    "/predict": (Row(always, tei.PREDICT),),
    "/": (
        Row(has_key("parameters"), hf.TEXT_CLASSIFICATION),
        Row(has_key("texts"), tei.RERANK),
        Row(always, tei.PREDICT),
    ),
}
"""The last row takes every body. `/X` is served as `/v1/X` too, but for `/` and `/v2/X`."""
