"""The vLLM dialect for any pooling task: /pooling, answered in numbers, base64 or plain bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from assay.server.dialects import vllm_schema as schema
from assay.server.dialects.base import Operation, Payload
from assay.server.dialects.binary import base64_of, bytes_of
from assay.server.dialects.parsing import check_removed, parsed
from assay.server.dialects.vllm_form import check_media, conditions, encoded_work
from assay.server.dialects.vllm_reply import DIALECT, details_of, head_of, top_details, usage_of
from assay.server.errors import refuse
from assay.server.request import Call

if TYPE_CHECKING:
    from assay.server.dialects.base import Reply, Stamp
    from assay.server.result import Answer
    from assay.server.settings import RequestPolicy


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


def format_pooling(call: Call, answer: Answer, stamp: Stamp) -> Reply:
    """The reply of /pooling, in the encoding the request asked for."""
    form = call.reply
    if form.encoding_format in ("bytes", "bytes_only"):
        return _as_bytes(call, answer, stamp)
    is_text = form.encoding_format == "base64"
    data = [
        {
            "index": index,
            "object": "pooling",
            "data": base64_of(item.data, form.embed_dtype, form.endianness) if is_text else item.data.tolist(),
            **details_of(item, call),
        }
        for index, item in enumerate(answer.items)
    ]
    head = head_of("pooling", answer, stamp)
    return {**head, "data": data, "usage": usage_of(answer), **top_details(call, answer)}


def _as_bytes(call: Call, answer: Answer, stamp: Stamp) -> Payload:
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
    head = {name: value for name, value in head_of("pooling", answer, stamp).items() if name != "object"}
    metadata = json.dumps({**head, "data": entries, "usage": usage})
    return Payload(body, "application/octet-stream", {"metadata": metadata})


POOLING = Operation("pooling", DIALECT, parse_pooling, format_pooling)
