"""What all replies of the vLLM dialect share: their head, their usage, their extras, and how failures look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.server.dialects.base import Dialect, Stamp

if TYPE_CHECKING:
    from assay.server.errors import Failure
    from assay.server.request import Call
    from assay.server.result import Answer, Item


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
    return {
        "prompt_tokens": count,
        "total_tokens": count,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }


def head_of(prefix: str, answer: Answer, stamp: Stamp) -> dict[str, Any]:
    """The first keys of a reply."""
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
