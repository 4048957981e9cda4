"""The reply of /pooling: JSON with numbers or base64, or plain bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from assay.server.dialects.base import Payload
from assay.server.dialects.binary import base64_of, bytes_of

if TYPE_CHECKING:
    from assay.server.dialects.base import Reply, Stamp
    from assay.server.request import Call
    from assay.server.result import Answer


def format_pooling(call: Call, answer: Answer, stamp: Stamp) -> Reply:
    """In the encoding the request asked for."""
    form = call.reply
    head: dict[str, Any] = {"id": f"pooling-{stamp.request_id}"}
    rest = {"created": stamp.created, "model": answer.name}
    count = answer.num_tokens
    if form.encoding_format in ("bytes", "bytes_only"):
        return _as_bytes(call, answer, {**head, **rest})
    is_text = form.encoding_format == "base64"
    data = [
        {
            "index": index,
            "object": "pooling",
            "data": base64_of(item.data, form.embed_dtype, form.endianness) if is_text else item.data.tolist(),
        }
        for index, item in enumerate(answer.items)
    ]
    usage = {"prompt_tokens": count, "total_tokens": count, "completion_tokens": 0, "prompt_tokens_details": None}
    details = {"score_kind": answer.score_kind} if form.return_details else {}
    return {**head, "object": "list", **rest, "data": data, "usage": usage, **details}


def _as_bytes(call: Call, answer: Answer, head: dict[str, Any]) -> Payload:
    form = call.reply
    parts = [bytes_of(item.data, form.embed_dtype, form.endianness) for item in answer.items]
    body = b"".join(parts)
    if form.encoding_format == "bytes_only":
        return Payload(body, "application/octet-stream")
    entries = []
    start = 0
    for index, (part, item) in enumerate(zip(parts, answer.items, strict=True)):
        stop = start + len(part)
        entries.append(
            {
                "index": index,
                "embed_dtype": form.embed_dtype,
                "endianness": form.endianness,
                "start": start,
                "end": stop,
                "shape": list(item.data.shape),
            }
        )
        start = stop
    usage = {"prompt_tokens": answer.num_tokens, "total_tokens": answer.num_tokens}
    # json and not orjson: a header is ASCII, so names in other scripts are escaped.
    metadata = json.dumps({**head, "data": entries, "usage": usage})
    return Payload(body, "application/octet-stream", {"metadata": metadata})
