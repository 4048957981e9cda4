"""OpenAI's /v1/embeddings; failures look as they do in the vLLM dialect, which has them from OpenAI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.server.dialects import vllm_schema as schema
from assay.server.dialects.base import Operation, Reply, Stamp
from assay.server.dialects.binary import base64_of
from assay.server.dialects.parsing import check_removed, parsed
from assay.server.dialects.vllm_form import check_media, conditions
from assay.server.dialects.vllm_reply import DIALECT, details_of, head_of, top_details, usage_of
from assay.server.errors import refuse
from assay.server.request import Call, Encode

if TYPE_CHECKING:
    from assay.server.result import Answer
    from assay.server.served import ServedModel
    from assay.server.settings import RequestPolicy


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
    check_media(form, policy)
    return Call(
        work=Encode(form.input, "embed"),
        use_activation=form.use_activation,
        dimensions=form.dimensions,
        reply=form,
        **conditions(form, add_special_tokens=form.add_special_tokens),
    )


def format_embeddings(call: Call, answer: Answer, stamp: Stamp) -> Reply:
    """The reply of /v1/embeddings, as OpenAI gives it."""
    form = call.reply
    is_text = form.encoding_format == "base64"
    data = [
        {
            "index": index,
            "object": "embedding",
            "embedding": base64_of(item.data, form.embed_dtype, form.endianness) if is_text else item.data.tolist(),
            **details_of(item, call),
        }
        for index, item in enumerate(answer.items)
    ]
    head = head_of("embd", answer, stamp)
    return {**head, "data": data, "usage": usage_of(answer), **top_details(call, answer)}


EMBEDDINGS = Operation("embeddings", DIALECT, parse_embeddings, format_embeddings, check_embeddings)
