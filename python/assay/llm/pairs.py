"""The pairs of a score call: what is tokenised for each, and the scores of embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay import scoring
from assay.errors import ValidationError
from assay.media import Illustrated
from assay.outputs import PoolingOutput, PoolingRequestOutput, ScoringRequestOutput
from assay.templated import TemplatedPair
from assay.text_limits import cut_texts

if TYPE_CHECKING:
    from assay.media import ImageRules
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
    rules: ImageRules | None = None,
) -> list[Renderable]:
    """What a cross-encoder reads for each pair: a template's text, a tokenizer pair, or the two texts in one.

    Images of both sides go with it, in the order in which their placeholders stand in the text. rules: of a model that
    takes images, and so many of them per pair.
    """
    query_texts, doc_texts = (
        _cut([side.text for side in sides], limit, tokenizer)
        for sides, limit in ((queries, limits.query), (docs, limits.doc))
    )
    if rules is not None:
        for text, side in zip([*query_texts, *doc_texts], [*queries, *docs], strict=True):
            rules.check_whole(text, len(side.images))
    prompts = _text_pairs(query_texts, doc_texts, template, uses_separator=uses_separator)
    suffix_ids = () if template is None else template.suffix_ids
    if not suffix_ids and not any(side.images for side in (*queries, *docs)):
        return prompts
    lefts = queries * len(docs) if len(queries) == 1 else queries
    for source in queries[0].images if len(queries) < len(docs) else ():
        source.is_shared = True
    sides = (docs, lefts) if template is not None and template.puts_document_first else (lefts, docs)
    images = [first.images + second.images for first, second in zip(*sides, strict=True)]
    if rules is not None:
        for of_pair in images:
            rules.check_count(len(of_pair))
    return [
        Illustrated(prompt, of_pair, suffix_ids) if of_pair or suffix_ids else prompt
        for prompt, of_pair in zip(prompts, images, strict=True)
    ]


def _text_pairs(
    query_texts: list[str], doc_texts: list[str], template: ScoreTemplate | None, *, uses_separator: bool
) -> list[Renderable]:
    if len(query_texts) == 1:
        query_texts = query_texts * len(doc_texts)
    pairs = zip(query_texts, doc_texts, strict=True)
    if template is not None:
        return [
            query + doc if template.has_rendered(query, doc) else TemplatedPair(template, query, doc)
            for query, doc in pairs
        ]
    return [*pairs] if uses_separator else [query + doc for query, doc in pairs]


def limited_texts(side: list[ScoreText], limit: int, tokenizer: Tokenizer | None) -> list[Renderable]:
    """Prompts of a bi-encoder's side; content parts are never cut."""
    texts = [item.text for item in side]
    kept = [item.text if item.is_parts else cut for item, cut in zip(side, _cut(texts, limit, tokenizer), strict=True)]
    return [Illustrated(text, item.images) if item.images else text for item, text in zip(side, kept, strict=True)]


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
