"""What the rest of the package asks a tokenizer beside encoding: its special tokens, limits and templates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

_UNSET_LENGTH: Final = 10**9
"""transformers stores about 1e30 where a tokenizer has no model_max_length."""


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """special_tokens: by name ("cls_token"), as text. chat_template: a text, texts by name, or None."""

    special_tokens: dict[str, str]
    pad_token_id: int | None
    bos_token_id: int | None
    model_max_length: int | None
    truncation_side: str
    has_token_types: bool
    chat_template: Any = None


def facts_of(hf: Any) -> TokenizerFacts:
    """The facts of a transformers tokenizer."""
    tokens = {name: token for name, token in hf.special_tokens_map.items() if isinstance(token, str)}
    return TokenizerFacts(
        special_tokens=tokens,
        pad_token_id=hf.pad_token_id,
        bos_token_id=hf.bos_token_id,
        model_max_length=length_limit(hf.model_max_length),
        truncation_side=str(hf.truncation_side),
        has_token_types="token_type_ids" in hf.model_input_names,
        chat_template=hf.chat_template,
    )


def length_limit(model_max_length: float | None) -> int | None:
    """The length a tokenizer's files limit its texts to; None where they state none."""
    return None if model_max_length is None or model_max_length >= _UNSET_LENGTH else int(model_max_length)
