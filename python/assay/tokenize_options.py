"""`tokenization_kwargs`, read once per call and checked against the context length."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from assay.errors import ValidationError

logger = logging.getLogger(__name__)

_SIDES: Final = ("left", "right")
_FLAGS: Final = ("add_special_tokens", "do_lower_case", "needs_detokenization")


@dataclass(frozen=True, slots=True)
class TokenizeOptions:
    """How the prompts of one call become token ids.

    max_length: the most tokens a prompt may have. truncate_to: keep that many tokens, None refuses longer prompts.
    truncation_side: None lets the tokenizer truncate (special tokens survive), a side slices the ids.
    cut_side: without a side, where the tokenizer cuts ("left" or "right"); None leaves it to the tokenizer's files.
    only_second: without a side, of a pair only the second text is truncated, instead of the longer one.
    cut_query: of a templated pair the query is truncated too, where it leaves no room for the document.
    pad_to: append pad tokens up to this length. do_lower_case: None follows the model folder.
    """

    max_length: int
    truncate_to: int | None = None
    truncation_side: str | None = None
    pad_to: int | None = None
    add_special_tokens: bool = True
    do_lower_case: bool | None = None
    cut_side: str | None = None
    only_second: bool = False
    cut_query: bool = False


def tokenize_options(
    kwargs: Mapping[str, Any] | None, max_model_len: int, truncate_prompt_tokens: int | None = None
) -> TokenizeOptions:
    """Read `tokenization_kwargs` and the `truncate_prompt_tokens` argument; raises ValidationError.

    Keys read: truncate_prompt_tokens (-1 = max_length), truncation_side, max_length, truncation, padding,
    pad_prompt_tokens, do_lower_case, add_special_tokens, needs_detokenization. Others are warned about and ignored.
    """
    rest = dict(kwargs or {})
    if truncate_prompt_tokens is not None:
        given = rest.setdefault("truncate_prompt_tokens", truncate_prompt_tokens)
        if given != truncate_prompt_tokens:
            raise ValidationError(
                f"truncate_prompt_tokens={truncate_prompt_tokens} and "
                f"tokenization_kwargs['truncate_prompt_tokens']={given} contradict each other"
            )
    if not rest:
        return TokenizeOptions(max_model_len)
    max_length = _count("max_length", rest.pop("max_length", None), max_model_len)
    if max_length is None:
        max_length = max_model_len
    truncate_to = _count("truncate_prompt_tokens", rest.pop("truncate_prompt_tokens", None), max_length)
    pad_to = _count("pad_prompt_tokens", rest.pop("pad_prompt_tokens", None), max_length)
    cut = {True: max_length, "longest_first": max_length, False: None, "do_not_truncate": None}
    fill = {"max_length": max_length, False: None, "do_not_pad": None}
    truncate_to = _override(rest, "truncation", cut, truncate_to)
    pad_to = _override(rest, "padding", fill, pad_to)
    side = rest.pop("truncation_side", None)
    if side is not None and side not in _SIDES:
        raise ValidationError("`truncation_side` must be either 'left' or 'right'.")
    flags = {name: _flag(name, rest.pop(name, None)) for name in _FLAGS}
    if rest:
        logger.warning("tokenization_kwargs %s are not supported and have no effect", rest)
    return TokenizeOptions(
        max_length=max_length,
        truncate_to=truncate_to,
        truncation_side=side,
        pad_to=pad_to,
        add_special_tokens=flags["add_special_tokens"] is not False,
        do_lower_case=flags["do_lower_case"],
    )


def with_special_tokens(kwargs: Mapping[str, Any] | None, add_special_tokens: bool | None) -> Mapping[str, Any] | None:
    """`tokenization_kwargs` with the argument of that name; raises ValidationError where the two contradict."""
    if add_special_tokens is None:
        return kwargs
    given = (kwargs or {}).get("add_special_tokens")
    if given is not None and given != add_special_tokens:
        raise ValidationError(
            f"add_special_tokens={add_special_tokens} and tokenization_kwargs['add_special_tokens']={given} "
            f"contradict each other"
        )
    return {**(kwargs or {}), "add_special_tokens": add_special_tokens}


def _override(rest: dict[str, Any], name: str, meanings: Mapping[Any, int | None], value: int | None) -> int | None:
    """The count that rest[name] stands for, taking the key out; an unknown choice stays for the warning."""
    choice = rest.get(name)
    if choice is None:
        rest.pop(name, None)
    elif isinstance(choice, bool | str) and choice in meanings:
        del rest[name]
        return meanings[choice]
    return value


def _flag(name: str, value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise ValidationError(f"{name} must be True, False or None, got {value!r}")
    return value


def _count(name: str, value: Any, limit: int) -> int | None:
    """A token count in [0, limit], where -1 stands for the limit."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < -1:
        raise ValidationError(f"{name} must be an integer >= -1, got {value!r}")
    if value > limit:
        raise ValidationError(
            f"{name}={value} cannot be greater than max_model_len = {limit}. Please request a smaller truncation size."
        )
    return limit if value == -1 else value
