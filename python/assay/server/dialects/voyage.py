"""The dialect of Voyage: /rerank with `top_k` or `truncation`, and without `top_n`, as its clients send it.

Every key of a vLLM body is read here too; what differs is the scale, the reply, and that long texts are cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from assay.server.dialects import vllm_pairs
from assay.server.dialects.base import Dialect, Operation, Reply, Stamp
from assay.server.dialects.vllm_form import document_of
from assay.server.dialects.vllm_reply import fail_with_detail, top_details

if TYPE_CHECKING:
    from assay.server.request import Call
    from assay.server.result import Answer

DIALECT = Dialect("voyage", fail_with_detail)


def is_voyage(body: Any, headers: Mapping[str, str]) -> bool:
    """Whether the keys are those that Voyage's clients send and others do not."""
    if not isinstance(body, dict) or "documents" not in body or "top_n" in body:
        return False
    return "top_k" in body or "truncation" in body


def format_rerank(call: Call, answer: Answer, stamp: Stamp) -> Reply:
    """Documents are plain texts, and there only where they were asked for."""
    data = []
    for index, document, score, details in vllm_pairs.ranked(call, answer):
        entry = {"index": index, "relevance_score": score, **details}
        if call.reply.return_documents:
            entry["document"] = document_of(document)["text"]
        data.append(entry)
    usage = {"total_tokens": answer.num_tokens}
    return {"object": "list", "data": data, "model": answer.name, "usage": usage, **top_details(call, answer)}


RERANK = Operation("rerank", DIALECT, vllm_pairs.parse_rerank_to_probabilities, format_rerank, vllm_pairs.check_score)
