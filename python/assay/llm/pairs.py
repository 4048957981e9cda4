"""The pairs of a score call: what is tokenised for each, and the scores of embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay import scoring
from assay.errors import ValidationError
from assay.outputs import PoolingOutput, PoolingRequestOutput, ScoringRequestOutput
from assay.templated import TemplatedPair
from assay.text_limits import cut_texts

if TYPE_CHECKING:
    from assay.rendering import Renderable
    from assay.scoring import ScoreLimits, ScoreText
    from assay.templated import ScoreTemplate
    from assay.tokenizer import Tokenizer

    PoolingResults = list[PoolingRequestOutput[PoolingOutput]]


def pair_prompts(
    queries: list[ScoreText],
    docs: list[ScoreText],
    limits: ScoreLimits,
    template: ScoreTemplate | None,
    tokenizer: Tokenizer | None,
    *,
    uses_separator: bool,
) -> list[Renderable]:
    """What a cross-encoder reads for each pair: a template's text, a tokenizer pair, or the two texts in one."""
    query_texts = _cut([side.text for side in queries], limits.query, tokenizer)
    doc_texts = _cut([side.text for side in docs], limits.doc, tokenizer)
    if len(query_texts) == 1:
        query_texts = query_texts * len(doc_texts)
    pairs = zip(query_texts, doc_texts, strict=True)
    if template is not None:
        return [
            query + doc if template.has_rendered(query, doc) else TemplatedPair(template, query, doc)
            for query, doc in pairs
        ]
    return [*pairs] if uses_separator else [query + doc for query, doc in pairs]


def limited_texts(side: list[ScoreText], limit: int, tokenizer: Tokenizer | None) -> list[str]:
    """Texts of a bi-encoder's side; content parts are never cut."""
    texts = [item.text for item in side]
    return [item.text if item.is_parts else cut for item, cut in zip(side, _cut(texts, limit, tokenizer), strict=True)]


def _cut(texts: list[str], limit: int, tokenizer: Tokenizer | None) -> list[str]:
    if not limit:
        return texts
    if tokenizer is None:
        raise ValidationError("You cannot pass text prompts when `skip_tokenizer_init=True`")
    return cut_texts(tokenizer, texts, limit)


def compared(
    queries: PoolingResults, docs: PoolingResults, kind: str, pad_token_id: int | None
) -> list[ScoringRequestOutput]:
    """Scores of embeddings: each pair joins the ids of its two requests, with a pad token in between."""
    if len(queries) == 1:
        queries = queries * len(docs)
    compare = scoring.cosine_similarity if kind == "bi-encoder" else scoring.max_similarity
    between = [] if pad_token_id is None else [pad_token_id]
    outputs = []
    for query, doc in zip(queries, docs, strict=True):
        error = query.error or doc.error
        data = doc.outputs.data if error else compare(query.outputs.data, doc.outputs.data)
        base = PoolingRequestOutput(
            f"{query.request_id}_{doc.request_id}",
            PoolingOutput(data),
            query.prompt_token_ids + between + doc.prompt_token_ids,
            query.num_cached_tokens + doc.num_cached_tokens,
            True,
            error=error,
        )
        outputs.append(ScoringRequestOutput.from_base(base))
    return outputs
