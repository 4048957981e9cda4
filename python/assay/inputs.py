"""Prompts: the forms callers may pass, brought to plain `str` or `list[int]`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypedDict

from assay.errors import ValidationError
from assay.media import Illustrated, images_of

if TYPE_CHECKING:
    from assay.media import ImageRules

logger = logging.getLogger(__name__)


class TextPrompt(TypedDict, total=False):
    """A prompt given as text."""

    prompt: str
    cache_salt: str


class TokensPrompt(TypedDict, total=False):
    """A prompt given as token ids; `prompt` may carry the text they came from and is not read."""

    prompt_token_ids: list[int]
    prompt: str
    cache_salt: str


class TextPairPrompt(TypedDict):
    """Two texts that the tokenizer encodes as a pair (premise and hypothesis, question and answer)."""

    text: str
    text_pair: str


Prompt: TypeAlias = "str | list[int] | TextPrompt | TokensPrompt | TextPairPrompt"
PlainPrompt: TypeAlias = "str | list[int] | tuple[str, str]"

_MULTIMODAL_KEYS: Final = ("multi_modal_data", "multi_modal_uuids", "mm_processor_kwargs", "media_io_kwargs")
_MEDIA_OPTIONS: Final = ("mm_processor_kwargs", "media_io_kwargs")
_KNOWN_KEYS: Final = frozenset(("prompt", "prompt_token_ids", "cache_salt", *_MULTIMODAL_KEYS))
_MAX_SALT_LENGTH: Final = 128


def plain_prompts(prompts: Any, architecture: str, rules: ImageRules | None = None) -> list[PlainPrompt | Illustrated]:
    """Every prompt of one call, in order; `architecture` is named when media reach a text model, which has no `rules`.

    A non-empty list of integers is one prompt. Raises ValidationError, or ValueError for an empty list.
    """
    if hasattr(prompts, "tolist"):  # numpy and torch arrays, pandas columns
        prompts = prompts.tolist()
    if isinstance(prompts, str | Mapping) or _is_token_ids(prompts):
        return [_plain(prompts, architecture, rules)]
    if not isinstance(prompts, Sequence) or isinstance(prompts, bytes | bytearray):
        raise ValidationError(f"prompts must be str, token ids, dict or a sequence of those, got {_kind(prompts)}")
    if not prompts:
        raise ValidationError("You must pass at least one prompt")
    plain: list[PlainPrompt | Illustrated] = []
    for index, prompt in enumerate(prompts):
        try:
            plain.append(prompt if type(prompt) is str else _plain(prompt, architecture, rules))
        except ValidationError as err:
            err.add_note(f"in prompts[{index}]")
            raise
    return plain


def _kind(value: Any) -> str:
    return type(value).__name__


def _is_token_ids(value: Any) -> bool:
    """Whether the value is a non-empty list of integers, judged by its first entry (the rest is checked on use)."""
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Integral)


def _plain(prompt: Any, architecture: str, rules: ImageRules | None) -> PlainPrompt | Illustrated:
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Mapping):
        return _plain_from_dict(prompt, architecture, rules)
    if hasattr(prompt, "tolist"):
        prompt = prompt.tolist()
    if isinstance(prompt, list | tuple):
        return _token_ids(prompt)
    raise ValidationError(f"a prompt must be str, token ids or dict, got {_kind(prompt)}")


def _token_ids(values: Sequence[Any]) -> list[int]:
    ids = list(values)
    if set(map(type, ids)) <= {int}:
        return ids
    for value in ids:
        if type(value) is bool or not isinstance(value, Integral):
            raise ValidationError(f"token ids must be integers, got {_kind(value)} {value!r}")
    return [int(value) for value in ids]


def _plain_from_dict(
    prompt: Mapping[str, Any], architecture: str, rules: ImageRules | None
) -> PlainPrompt | Illustrated:
    if "data" in prompt:
        raise ValidationError("The 'data' field is only supported for the 'plugin' pooling task.")
    if prompt.get("prompt_embeds") is not None:
        raise ValidationError("prompt_embeds is not supported: pass `prompt` or `prompt_token_ids`")
    check_cache_salt(prompt.get("cache_salt"))
    if rules is None and any(prompt.get(key) for key in _MULTIMODAL_KEYS):
        raise ValidationError(f"MultiModalParam is not supported for {architecture}")
    options = [key for key in _MEDIA_OPTIONS if prompt.get(key)]
    if options:
        raise ValidationError(f"{options[0]} of a prompt is not supported: give LLM(...) mm_processor_kwargs")
    if not prompt.get("multi_modal_data"):
        return _without_media(prompt)
    assert rules is not None
    images = images_of(prompt["multi_modal_data"], architecture)
    rules.check_count(len(images))
    return Illustrated(_without_media(prompt), images) if images else _without_media(prompt)


def _without_media(prompt: Mapping[str, Any]) -> PlainPrompt:
    if "text_pair" in prompt:
        return _pair(prompt)
    unknown = sorted(set(prompt) - _KNOWN_KEYS)
    if unknown:
        logger.warning("prompt keys %s are not read and have no effect", unknown)
    token_ids, text = prompt.get("prompt_token_ids"), prompt.get("prompt")
    if token_ids is not None:
        token_ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        if not isinstance(token_ids, list | tuple):
            raise ValidationError(f"prompt_token_ids must be a list of integers, got {_kind(token_ids)}")
        return _token_ids(token_ids)
    if isinstance(text, str):
        return text
    raise ValidationError(f"a prompt dict needs `prompt` (str) or `prompt_token_ids` (ids), got keys {list(prompt)}")


def _pair(prompt: Mapping[str, Any]) -> tuple[str, str]:
    first, second = prompt.get("text"), prompt["text_pair"]
    if not isinstance(first, str) or not isinstance(second, str):
        raise ValidationError("a pair prompt needs `text` (str) and `text_pair` (str)")
    return first, second


def check_cache_salt(salt: Any) -> None:
    """The rules for a cache salt."""
    if salt is None:
        return
    if not isinstance(salt, str) or not salt:
        raise ValidationError("Parameter 'cache_salt' must be a non-empty string if provided.")
    if len(salt) > _MAX_SALT_LENGTH or any(char in salt for char in "@/\\\0"):
        raise ValidationError(
            "Parameter 'cache_salt' must be at most 128 characters and must not contain '@', '/', '\\\\', or NUL."
        )


def cache_salts(prompts: Any) -> list[str | None] | None:
    """The salt of every prompt that `plain_prompts` has accepted, in order; None where none has one."""
    if isinstance(prompts, Mapping):
        prompts = [prompts]
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        return None
    salts = [prompt.get("cache_salt") if isinstance(prompt, dict | Mapping) else None for prompt in prompts]
    return salts if any(salts) else None
