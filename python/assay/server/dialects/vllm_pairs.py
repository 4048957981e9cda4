"""The vLLM dialect for pairs: /score and /rerank.

Bodies of Jina, Cohere (v1 and v2), Xinference, Dify and Open WebUI rerankers are bodies of this dialect too.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from assay.server.dialects import vllm_schema as schema
from assay.server.dialects.base import Operation, Reply, Stamp
from assay.server.dialects.parsing import check_removed, parsed
from assay.server.dialects.vllm_form import (
    check_media,
    conditions,
    document_of,
    scale_of,
    scored_work,
    side_of,
    window_of,
)
from assay.server.dialects.vllm_reply import DIALECT, RERANK_DIALECT, details_of, head_of, top_details, usage_of
from assay.server.errors import NotFound, refuse
from assay.server.request import Call, Score

if TYPE_CHECKING:
    from assay.server.result import Answer
    from assay.server.served import ServedModel
    from assay.server.settings import RequestPolicy

SCORE_FORMS = (
    (("queries", "documents"), schema.ScoreDocuments),
    (("queries", "items"), schema.ScoreItems),
    (("data_1", "data_2"), schema.ScoreData),
    (("text_1", "text_2"), schema.ScoreText),
)
"""Key pairs of /score in the order they are tried."""


def check_score(model: ServedModel) -> None:
    """The routes exist where pairs can be scored."""
    if not model.can_score:
        raise NotFound


def parse_score(body: Any, policy: RequestPolicy) -> Call:
    """POST /score."""
    check_removed(body)
    names = body if isinstance(body, dict) else {}
    found = ((keys, form) for keys, form in SCORE_FORMS if all(names.get(key) is not None for key in keys))
    (left, right), form_class = next(found, SCORE_FORMS[0])
    form = parsed(form_class, body)
    check_media(form, policy)
    sides = side_of(getattr(form, left)), side_of(getattr(form, right))
    return Call(
        work=scored_work(form, *sides),
        use_activation=form.use_activation,
        scale=scale_of(form, "probability"),
        reply=form,
        **conditions(form),
    )


def format_score(call: Call, answer: Answer, stamp: Stamp) -> Reply:
    """The reply of /score, in the order of the pairs."""
    data = [
        {"index": index, "object": "score", "score": item.data.item(), **details_of(item, call)}
        for index, item in enumerate(answer.items)
    ]
    head = head_of("score", answer, stamp)
    return {**head, "data": data, "usage": usage_of(answer), **top_details(call, answer)}


def parse_rerank(body: Any, policy: RequestPolicy) -> Call:
    """POST /rerank."""
    check_removed(body)
    form = parsed(schema.Rerank, body)
    check_media(form, policy)
    if {"top_n", "top_k"} <= form.model_fields_set and form.top_n != form.top_k:
        raise refuse(f"top_n ({form.top_n}) and top_k ({form.top_k}) contradict each other: pass one", param="top_k")
    return Call(
        work=scored_work(form, side_of(form.query), side_of(form.documents)),
        use_activation=form.use_activation,
        scale=scale_of(form, "probability"),
        cut_long=form.truncation,
        long_input=window_of(form.long_input),
        reply=form,
        **conditions(form),
    )


def parse_rerank_v2(body: Any, policy: RequestPolicy) -> Call:
    """POST /v2/rerank: Cohere's clients state a limit of their own, which only says how far a document may be cut."""
    call = parse_rerank(body, policy)
    assert isinstance(call.work, Score)
    return dataclasses.replace(call, work=dataclasses.replace(call.work, has_soft_limits=True))


def parse_rerank_to_probabilities(body: Any, policy: RequestPolicy) -> Call:
    """POST /rerank of servers whose scores are 0 to 1 whatever the model declares, and that cut what is too long."""
    call = parse_rerank(body, policy)
    scale = scale_of(call.reply, "probability", "probability")
    return dataclasses.replace(call, scale=scale, cut_long=call.reply.truncation is not False)


def ranked(call: Call, answer: Answer) -> list[tuple[int, Any, float, dict[str, Any]]]:
    """Index, document, score and details, best first, ties in the order of the documents; as many as were asked for."""
    form, items = call.reply, answer.items
    documents = form.documents if isinstance(form.documents, list) else [form.documents]
    scores = [item.data.item() for item in items]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: form.top_n or form.top_k or None]
    return [(index, documents[index], scores[index], details_of(items[index], call)) for index in order]


def format_rerank(call: Call, answer: Answer, stamp: Stamp) -> Reply:
    """The reply of /rerank."""
    results = [
        {"index": index, "document": document_of(document), "relevance_score": score, **details}
        for index, document, score, details in ranked(call, answer)
    ]
    usage = {"prompt_tokens": answer.num_tokens, "total_tokens": answer.num_tokens}
    head = {"id": f"score-{stamp.request_id}", "model": answer.name, "usage": usage}
    return {**head, "results": results, **top_details(call, answer)}


def format_rerank_v2(call: Call, answer: Answer, stamp: Stamp) -> Reply:
    """The same with the `meta` block of Cohere's second version."""
    reply = format_rerank(call, answer, stamp)
    assert isinstance(reply, dict)
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return {**reply, "meta": meta}


SCORE = Operation("score", DIALECT, parse_score, format_score, check_score)
RERANK = Operation("rerank", RERANK_DIALECT, parse_rerank, format_rerank, check_score)
RERANK_V2 = Operation("rerank", RERANK_DIALECT, parse_rerank_v2, format_rerank_v2, check_score)
