"""Parts of vLLM bodies as parts of the internal request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from assay.server.dialects import vllm_schema as schema
from assay.server.errors import refuse
from assay.server.request import Chat, Encode, LongInput, Scale, Score
from assay.server.served import asked_name

if TYPE_CHECKING:
    from assay.server.settings import RequestPolicy

UNTRUSTED_MEDIA: Final = (
    "Per-request {} are disabled by default because they can change multimodal {} resource usage. "
    "Start the server with --trust-request-mm-kwargs only when clients are trusted."
)
UNTRUSTED_TEMPLATE: Final = (
    "Chat template is passed with request, but --trust-request-chat-template is not set. "
    "Refused request with untrusted chat template."
)
BOTH_FLAGS: Final = "Cannot set both `continue_final_message` and `add_generation_prompt` to True."


def conditions(form: schema.Body, add_special_tokens: bool | None = None) -> dict[str, Any]:
    """The fields of Call that every vLLM body has keys for."""
    if add_special_tokens is None:
        add_special_tokens = getattr(form, "add_special_tokens", None)
    tokenization = {
        "truncate_prompt_tokens": form.truncate_prompt_tokens,
        "truncation_side": form.truncation_side,
        "padding": form.padding,
        "add_special_tokens": add_special_tokens,
    }
    return {
        "model": asked_name(form.model),
        "request_id": form.request_id,
        "priority": form.priority,
        "timeout_ms": form.timeout_ms,
        "cache_salt": form.cache_salt,
        "tokenization": {name: value for name, value in tokenization.items() if value is not None},
    }


def scale_of(form: schema.Rescaled, probability: Scale, default: Scale = "model") -> Scale:
    """The scale of the scores: `probability` where raw_scores is false, `default` where the body says nothing of it.

    use_activation true asks for the model's own scores whatever raw_scores says.
    """
    if form.raw_scores is not None and form.raw_scores == form.use_activation:
        flag = str(form.raw_scores).lower()
        raise refuse(f"raw_scores ({flag}) and use_activation ({flag}) contradict each other", param="raw_scores")
    if form.raw_scores:
        return "logit"
    if form.use_activation is not None:
        return "model"
    return default if form.raw_scores is None else probability


def check_media(form: Any, policy: RequestPolicy) -> None:
    """Refuse options of media processing: no client may set them, and untrusted ones get vLLM's words."""
    for name, what in (("mm_processor_kwargs", "preprocessing"), ("media_io_kwargs", "media loading")):
        if not getattr(form, name, None):
            continue
        if not policy.trust_media_options:
            raise refuse(UNTRUSTED_MEDIA.format(name, what), param=name)
        raise refuse(f"{name} of a request is not supported: set --mm-processor-kwargs at the start", param=name)


def encoded_work(form: Any, task: str | None, policy: RequestPolicy) -> Encode | Chat:
    """What a body with `input` or `messages` asks for."""
    if not isinstance(form, schema.ChatForm):
        return Encode(form.input, task)
    return chat_of(form, task, policy)


def chat_of(form: schema.ChatForm, task: str | None, policy: RequestPolicy) -> Chat:
    """The conversation of a body with `messages`."""
    if not form.messages or not all(isinstance(message.get("role"), str) for message in form.messages):
        raise refuse("messages must be a list of messages with `role` and `content`", param="messages")
    if form.add_generation_prompt and form.continue_final_message:
        raise refuse(BOTH_FLAGS)
    kwargs = form.chat_template_kwargs or {}
    if not policy.trust_chat_template and (form.chat_template is not None or kwargs.get("chat_template") is not None):
        raise refuse(UNTRUSTED_TEMPLATE)
    return Chat(
        messages=form.messages,
        task=task,
        add_generation_prompt=form.add_generation_prompt,
        continue_final_message=form.continue_final_message,
        chat_template=form.chat_template or kwargs.get("chat_template"),
        chat_template_kwargs={name: value for name, value in kwargs.items() if name != "chat_template"},
    )


def window_of(window: schema.Window | None) -> LongInput | None:
    """The request's windows."""
    return None if window is None else LongInput(window.stride, window.agg)


def scored_work(form: schema.Scored, queries: Any, documents: Any) -> Score:
    """What a body with two sides asks for."""
    kwargs = dict(form.chat_template_kwargs or {})
    if form.instruction is not None:
        kwargs.setdefault("instruction", form.instruction)
    return Score(
        queries=queries,
        documents=documents,
        max_tokens_per_query=form.max_tokens_per_query,
        max_tokens_per_doc=form.max_tokens_per_doc,
        chat_template_kwargs=kwargs,
    )


def side_of(side: schema.Side) -> Any:
    """One side of the pairs as `LLM.score` takes it; {"text": ...} is the text."""
    if isinstance(side, list):
        return [content_of(item) for item in side]
    return content_of(side)


def content_of(item: str | schema.Content) -> Any:
    """A text, or {"content": parts}."""
    if isinstance(item, str):
        return item
    if item.content is None:
        if item.image is not None:
            text = [] if item.text is None else [{"type": "text", "text": item.text}]
            return {"content": [{"type": "image", "image": item.image}, *text]}
        if item.text is None:
            raise refuse(
                "a document must be a string, {'text': ...}, {'image': URL} or {'content': [parts]}", param="documents"
            )
        return item.text
    if isinstance(item.content, str):
        return {"content": item.content}
    return {"content": [_part(part) for part in item.content]}


def _part(part: str | schema.TextPart) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = {"type": part.type} if "type" in part.model_fields_set else {}
    return {**kind, **(part.model_extra or {})}


def document_of(item: str | schema.Content) -> dict[str, Any]:
    """A document as a reply shows it: its text, or its parts."""
    if isinstance(item, str):
        return {"text": item, "multi_modal": None}
    content = content_of(item)
    content = content["content"] if isinstance(content, dict) else content
    if isinstance(content, str):
        return {"text": content, "multi_modal": None}
    return {"text": None, "multi_modal": content}
