"""The vLLM dialect for classifiers: /classify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.server.dialects import vllm_schema as schema
from assay.server.dialects.base import Operation, Reply, Stamp
from assay.server.dialects.parsing import check_removed, parsed
from assay.server.dialects.vllm_form import check_media, conditions, encoded_work, scale_of, window_of
from assay.server.dialects.vllm_reply import DIALECT, details_of, head_of, top_details, usage_of
from assay.server.errors import NotFound, refuse
from assay.server.request import Call

if TYPE_CHECKING:
    from assay.server.result import Answer
    from assay.server.served import ServedModel
    from assay.server.settings import RequestPolicy


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
        scale=scale_of(form, "pipeline"),
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
    head = head_of("classify", answer, stamp)
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


CLASSIFY = Operation("classify", DIALECT, parse_classify, format_classify, check_classify)
