"""The vLLM dialect: /classify, /pooling, /score, /rerank and their replies.

Bodies of Jina, Cohere (v1 and v2), Xinference, Dify and Open WebUI rerankers are bodies of this dialect too.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from assay.server.dialects import vllm_schema as schema
from assay.server.dialects.base import Dialect, Operation, Reply, Stamp
from assay.server.dialects.parsing import check_removed, parsed
from assay.server.dialects.vllm_form import (
    check_media,
    conditions,
    document_of,
    encoded_work,
    scored_work,
    side_of,
    window_of,
)
from assay.server.dialects.vllm_pooling import format_pooling
from assay.server.errors import NotFound, refuse
from assay.server.request import Call, Encode, Score

if TYPE_CHECKING:
    from assay.server.errors import Failure
    from assay.server.result import Answer, Item
    from assay.server.served import ServedModel
    from assay.server.settings import RequestPolicy

SCORE_FORMS = (
    (("queries", "documents"), schema.ScoreDocuments),
    (("queries", "items"), schema.ScoreItems),
    (("data_1", "data_2"), schema.ScoreData),
    (("text_1", "text_2"), schema.ScoreText),
)
"""Key pairs of /score in the order they are tried."""


def fail(failure: Failure) -> tuple[int, dict[str, Any]]:
    """OpenAI's form of an error."""
    error = {"message": failure.message, "type": failure.kind, "param": failure.param, "code": failure.status}
    return failure.status, {"error": error}


def fail_with_detail(failure: Failure) -> tuple[int, dict[str, Any]]:
    """The same with the message under `detail` too, where Jina's and Xinference's clients look for it."""
    status, body = fail(failure)
    return status, {**body, "detail": failure.message}


DIALECT = Dialect("vllm", fail)
RERANK_DIALECT = Dialect("vllm", fail_with_detail)


def usage_of(answer: Answer) -> dict[str, Any]:
    """What was read, in the long form."""
    count = answer.num_tokens
    return {"prompt_tokens": count, "total_tokens": count, "completion_tokens": 0, "prompt_tokens_details": None}


def _head(prefix: str, answer: Answer, stamp: Stamp) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{stamp.request_id}",
        "object": "list",
        "created": stamp.created,
        "model": answer.name,
    }


def details_of(item: Item, call: Call) -> dict[str, Any]:
    """What a request gets that asked for details, or for windows."""
    details: dict[str, Any] = {}
    if call.long_input is not None:
        details["num_windows"] = item.num_windows
    if call.reply.return_details:
        details["num_tokens"] = item.num_tokens
        details["truncated"] = item.is_truncated
        details["original_tokens"] = item.original_tokens
    return details


def top_details(call: Call, answer: Answer) -> dict[str, Any]:
    """The same for the whole reply."""
    return {"score_kind": answer.score_kind} if call.reply.return_details else {}


# ---- classify ------------------------------------------------------------------------------------------------------


def check_classify(model: ServedModel) -> None:
    """The route exists where there is a classifier, and works where that is the active task."""
    if "classify" not in model.supported_tasks:
        raise NotFound
    if model.task != "classify":
        raise refuse("The model does not support Classification API", status=501, kind="NotImplementedError")


def parse_classify(body: Any, policy: RequestPolicy) -> Call:
    """POST /classify."""
    check_removed(body)
    is_chat = isinstance(body, dict) and "messages" in body
    form = parsed(schema.ClassifyChat if is_chat else schema.ClassifyCompletion, body)
    check_media(form, policy)
    return Call(
        work=encoded_work(form, "classify", policy),
        use_activation=form.use_activation,
        long_input=window_of(form.long_input),
        reply=form,
        **conditions(form),
    )


def format_classify(call: Call, answer: Answer, stamp: Stamp) -> Reply:
    """The reply of /classify."""
    form, id2label = call.reply, answer.model.id2label
    wants_scores = form.return_scores or form.top_k is not None or form.threshold is not None
    data = []
    for index, item in enumerate(answer.items):
        probs: list[float] = item.data.tolist()
        label = id2label.get(probs.index(max(probs)))
        entry = {"index": index, "label": label, "probs": probs, "num_classes": len(probs)}
        if wants_scores:
            entry.update(best_labels(probs, id2label, form.top_k, form.threshold))
        entry.update(details_of(item, call))
        data.append(entry)
    head = _head("classify", answer, stamp)
    return {**head, "data": data, "usage": usage_of(answer), **top_details(call, answer)}


def best_labels(
    probs: list[float], id2label: dict[int, str], top_k: int | None, threshold: float | None
) -> dict[str, Any]:
    """Labels and their scores, best first, ties by the lower index."""
    order = sorted(range(len(probs)), key=lambda index: -probs[index])
    if threshold is not None:
        order = [index for index in order if probs[index] >= threshold]
    order = order[:top_k]
    return {"labels": [id2label.get(index) for index in order], "scores": [probs[index] for index in order]}


# ---- pooling -------------------------------------------------------------------------------------------------------


def parse_pooling(body: Any, policy: RequestPolicy) -> Call:
    """POST /pooling."""
    check_removed(body)
    if isinstance(body, dict) and "data" in body and "input" not in body and "messages" not in body:
        body = {**body, "input": "", "task": body.get("task") or "plugin"}
    is_chat = isinstance(body, dict) and "messages" in body
    form = parsed(schema.PoolingChat if is_chat else schema.PoolingCompletion, body)
    if form.dimensions is not None:
        raise refuse("dimensions is currently not supported", param="dimensions")
    check_media(form, policy)
    work = encoded_work(form, form.task, policy)
    return Call(work=work, use_activation=form.use_activation, reply=form, **conditions(form))


# ---- embeddings ----------------------------------------------------------------------------------------------------


def check_embeddings(model: ServedModel) -> None:
    """Only embedding models have it; what a classifier or reranker offers instead is said."""
    if model.task == "embed":
        return
    if "embed" in model.supported_tasks:
        model.check_task("embed")
    raise refuse(
        f"The model `{model.name}` does not support the Embeddings API: it classifies or reranks. "
        f"Use /classify, /score, /rerank or /pooling.",
        param="model",
    )


def parse_embeddings(body: Any, policy: RequestPolicy) -> Call:
    """POST /v1/embeddings."""
    check_removed(body)
    form = parsed(schema.Embeddings, body)
    return Call(
        work=Encode(form.input, "embed"),
        dimensions=form.dimensions,
        reply=form,
        **conditions(form, add_special_tokens=form.add_special_tokens),
    )


def format_embeddings(call: Call, answer: Answer, stamp: Stamp) -> Reply:
    """The reply of /v1/embeddings, as OpenAI gives it."""
    from assay.server.dialects.binary import base64_of

    is_text = call.reply.encoding_format == "base64"
    data = [
        {
            "index": index,
            "object": "embedding",
            "embedding": base64_of(item.data, "float32", "little") if is_text else item.data.tolist(),
        }
        for index, item in enumerate(answer.items)
    ]
    return {**_head("embd", answer, stamp), "data": data, "usage": usage_of(answer)}


# ---- score and rerank ----------------------------------------------------------------------------------------------


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
    return Call(work=scored_work(form, *sides), use_activation=form.use_activation, reply=form, **conditions(form))


def format_score(call: Call, answer: Answer, stamp: Stamp) -> Reply:
    """The reply of /score, in the order of the pairs."""
    data = [
        {"index": index, "object": "score", "score": item.data.item(), **details_of(item, call)}
        for index, item in enumerate(answer.items)
    ]
    head = _head("score", answer, stamp)
    return {**head, "data": data, "usage": usage_of(answer), **top_details(call, answer)}


def parse_rerank(body: Any, policy: RequestPolicy) -> Call:
    """POST /rerank."""
    check_removed(body)
    form = parsed(schema.Rerank, body)
    check_media(form, policy)
    return Call(
        work=scored_work(form, side_of(form.query), side_of(form.documents)),
        use_activation=form.use_activation,
        long_input=window_of(form.long_input),
        reply=form,
        **conditions(form),
    )


def parse_rerank_v2(body: Any, policy: RequestPolicy) -> Call:
    """POST /v2/rerank: Cohere's clients state a limit of their own, which only says how far a document may be cut."""
    call = parse_rerank(body, policy)
    assert isinstance(call.work, Score)
    return dataclasses.replace(call, work=dataclasses.replace(call.work, has_soft_limits=True))


def format_rerank(call: Call, answer: Answer, stamp: Stamp) -> Reply:
    """The reply of /rerank: best first, ties in the order of the documents."""
    form, items = call.reply, answer.items
    documents = form.documents if isinstance(form.documents, list) else [form.documents]
    scores = [item.data.item() for item in items]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    results = [
        {
            "index": index,
            "document": document_of(documents[index]),
            "relevance_score": scores[index],
            **details_of(items[index], call),
        }
        for index in order[: form.top_n or None]
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


CLASSIFY = Operation("classify", DIALECT, parse_classify, format_classify, check_classify)
POOLING = Operation("pooling", DIALECT, parse_pooling, format_pooling)
EMBEDDINGS = Operation("embeddings", DIALECT, parse_embeddings, format_embeddings, check_embeddings)
SCORE = Operation("score", DIALECT, parse_score, format_score, check_score)
RERANK = Operation("rerank", RERANK_DIALECT, parse_rerank, format_rerank, check_score)
RERANK_V2 = Operation("rerank", RERANK_DIALECT, parse_rerank_v2, format_rerank_v2, check_score)
