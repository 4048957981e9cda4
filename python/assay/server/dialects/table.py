"""The discriminator: which operation a body means on which route. Rows are tried from top to bottom."""

from __future__ import annotations

from typing import Final

from assay.server.dialects import tei, vllm
from assay.server.dialects.base import Row, always, has_key

INVOCATIONS: Final = (
    Row(has_key("texts"), tei.RERANK),
    Row(has_key("inputs"), tei.PREDICT),
    Row(has_key("query", "documents"), vllm.RERANK),
    *(Row(has_key(*keys), vllm.SCORE) for keys, _ in vllm.SCORE_FORMS),
)
"""Rows of /invocations that do not depend on the model."""
INPUT_OPERATIONS: Final = {"classify": vllm.CLASSIFY, "embed": vllm.EMBEDDINGS}
"""What `input` and `messages` mean on /invocations, by the active task; /pooling for any other."""

ROUTES: Final[dict[str, tuple[Row, ...]]] = {
    "/classify": (Row(always, vllm.CLASSIFY),),
    "/score": (Row(always, vllm.SCORE),),
    "/rerank": (Row(has_key("texts"), tei.RERANK), Row(always, vllm.RERANK)),
    "/v2/rerank": (Row(always, vllm.RERANK_V2),),
    "/pooling": (Row(always, vllm.POOLING),),
    "/embeddings": (Row(always, vllm.EMBEDDINGS),),
    "/predict": (Row(always, tei.PREDICT),),
}
"""The last row takes every body. `/X` is served as `/v1/X` too."""

DIALECTS: Final = {operation.dialect.name for rows in ROUTES.values() for operation in (row.operation for row in rows)}
"""What the header X-Assay-Dialect may say."""
