"""The dialect of Infinity: /rerank and /classify with `raw_scores`, which its clients always send.

Every key of a vLLM body is read here too; what differs is the scale, the reply, and that long texts are cut.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from assay.server.dialects import vllm_classify, vllm_pairs
from assay.server.dialects.base import Dialect, Operation, Reply, Stamp
from assay.server.dialects.vllm_form import document_of, scale_of
from assay.server.dialects.vllm_reply import fail, top_details
from assay.server.errors import refuse

if TYPE_CHECKING:
    from assay.server.request import Call
    from assay.server.result import Answer
    from assay.server.settings import RequestPolicy

DIALECT = Dialect("infinity", fail)


def format_rerank(call: Call, answer: Answer, stamp: Stamp) -> Reply:
    """Documents are plain texts, and there only where they were asked for."""
    results = [
        {
            "relevance_score": score,
            "index": index,
            "document": document_of(document)["text"] if call.reply.return_documents else None,
            **details,
        }
        for index, document, score, details in vllm_pairs.ranked(call, answer)
    ]
    return {"object": "rerank", "results": results, **_tail(answer, stamp), **top_details(call, answer)}


def parse_classify(body: Any, policy: RequestPolicy) -> Call:
    """POST /classify: the scores of a text-classification pipeline."""
    call = vllm_classify.parse_classify(body, policy)
    if call.reply.return_details:
        message = "return_details: the reply to raw_scores has no place for details; use_activation asks for another"
        raise refuse(message, param="return_details")
    return dataclasses.replace(call, scale=scale_of(call.reply, "pipeline", "pipeline"), cut_long=True)


def format_classify(call: Call, answer: Answer, stamp: Stamp) -> Reply:
    """A list of labels per text, best first, ties by the lower index."""
    form, names = call.reply, dict(enumerate(answer.model.labels))
    data = []
    for item in answer.items:
        best = vllm_classify.best_labels(item.data.tolist(), names, form.top_k, form.threshold)
        data.append(
            [{"score": score, "label": label} for label, score in zip(best["labels"], best["scores"], strict=True)]
        )
    return {"object": "classify", "data": data, **_tail(answer, stamp)}


def _tail(answer: Answer, stamp: Stamp) -> dict[str, Any]:
    return {
        "model": answer.name,
        "usage": {"prompt_tokens": answer.num_tokens, "total_tokens": answer.num_tokens},
        "id": f"infinity-{stamp.request_id}",
        "created": stamp.created,
    }


RERANK = Operation("rerank", DIALECT, vllm_pairs.parse_rerank_to_probabilities, format_rerank, vllm_pairs.check_score)
CLASSIFY = Operation("classify", DIALECT, parse_classify, format_classify, vllm_classify.check_classify)
