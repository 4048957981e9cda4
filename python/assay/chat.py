"""Conversations: telling them from other prompts, and rendering them with a chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from assay.errors import ValidationError
from assay.media import message_parts, read_parts

if TYPE_CHECKING:
    from assay.media import ImageRules, ImageSource
    from assay.templates import Template

Message = Mapping[str, Any]

CONTENT_FORMATS: Final = ("auto", "string", "openai")
NO_TEMPLATE: Final = (
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if "
    "the tokenizer does not define one."
)
_BOTH_FLAGS: Final = "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
_RESERVED: Final = ("messages", "tokenize", "chat_template", "continue_final_message")
_END: Final = "\ue000end of the final message\ue001 "
"""Marks where the final message ends; characters of the private use area, and a space that shows a trimmed end."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text, and its images in the order of their marks in it."""

    text: str
    images: tuple[ImageSource, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How the conversations of one call are rendered.

    chat_template: the text of one to use instead of the model's. content_format: "string" gives the template
    each message's text, "openai" a list of parts; "auto" looks at the template.
    """

    chat_template: str | None = None
    add_generation_prompt: bool = False
    continue_final_message: bool = False
    chat_template_kwargs: Mapping[str, Any] | None = None
    content_format: str = "auto"

    def __post_init__(self) -> None:
        if self.add_generation_prompt and self.continue_final_message:
            raise ValidationError(_BOTH_FLAGS)
        if self.content_format not in CONTENT_FORMATS:
            raise ValidationError(f"content_format must be one of {', '.join(CONTENT_FORMATS)}")
        wrong = set(self.chat_template_kwargs or {}) & set(_RESERVED)
        if wrong:
            raise ValidationError(f"chat_template_kwargs may not hold {', '.join(sorted(wrong))}")


def conversations(prompts: Any) -> list[Sequence[Message]] | None:
    """The conversations of a call: one list of messages, or a list of those; None where the prompts are no chats.

    Raises ValidationError where a call mixes conversations with other prompts.
    """
    if _is_conversation(prompts):
        return [prompts]
    if not isinstance(prompts, list | tuple) or not any(_is_conversation(prompt) for prompt in prompts):
        return None
    for index, prompt in enumerate(prompts):
        if not _is_conversation(prompt):
            raise ValidationError(f"prompts[{index}] is no conversation: a call takes conversations or other prompts")
    return list(prompts)


def _is_conversation(prompt: Any) -> bool:
    return isinstance(prompt, list | tuple) and bool(prompt) and isinstance(prompt[0], Mapping) and "role" in prompt[0]


def render_chat(
    template: Template,
    messages: Sequence[Message],
    options: ChatOptions,
    architecture: str,
    rules: ImageRules | None = None,
) -> Rendered:
    """One conversation. architecture: named when media reach a model that does not take them; rules: its images.

    Raises ValidationError.
    """
    as_parts = template.takes_parts if options.content_format == "auto" else options.content_format == "openai"
    images: list[ImageSource] = []
    plain = [_message(message, as_parts, architecture, rules, images) for message in messages]
    ends_with = _mark_end(plain) if options.continue_final_message else ""
    variables = {**(options.chat_template_kwargs or {}), "add_generation_prompt": options.add_generation_prompt}
    text = template.render(plain, **variables)
    text = _cut_at_mark(text, ends_with) if options.continue_final_message else text
    if rules is not None:
        rules.check_count(len(images))
    return Rendered(text, tuple(images))


def _message(
    message: Any, as_parts: bool, architecture: str, rules: ImageRules | None, images: list[ImageSource]
) -> dict[str, Any]:
    """A message with its content as the template wants it: a str, or a list of parts. Its images join `images`."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ValidationError(f"a message must be a dict with `role` and `content`, got {message!r}")
    content = message.get("content")
    if content is None or isinstance(content, str):
        content = [] if content is None else [content]
    elif not isinstance(content, Sequence):
        raise ValidationError(f"a message's content must be str or a list of parts, got {type(content).__name__}")
    parts = read_parts(content, architecture, rules)
    images += parts.images
    if as_parts:
        return {**message, "content": list(message_parts(parts))}
    text = "\n".join(parts.texts)
    return {**message, "content": text if rules is None else rules.placed(text, len(parts.images))}


def _mark_end(messages: list[dict[str, Any]]) -> str:
    """Put the mark behind the final message's text; gives that text."""
    final = messages[-1]
    content = final["content"]
    if isinstance(content, str):
        final["content"] = content + _END
        return content
    if not content:
        raise ValidationError("continue_final_message: the final message has no text to continue")
    if "text" not in content[-1]:
        raise ValidationError("continue_final_message: the final message ends with an image, and not with a text")
    text: str = content[-1]["text"]
    content[-1] = {**content[-1], "text": text + _END}
    return text


def _cut_at_mark(text: str, final: str) -> str:
    """The rendered text up to the end of the final message, without what the template trimmed off that end."""
    start = text.rfind(_END.strip())
    if start < 0 or final.strip() not in text:
        raise ValidationError("continue_final_message: the chat template does not print the final message as it is")
    kept = text[:start].replace(_END, "").replace(_END.strip(), "")
    return kept if text[start:].startswith(_END) else kept.rstrip()
