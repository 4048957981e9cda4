"""Cutting a text to a number of content tokens, at a character boundary the tokenizer knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assay.tokenizer import Tokenizer


def cut_texts(tokenizer: Tokenizer, texts: list[str], limit: int) -> list[str]:
    """Each text cut so that it has at most `limit` tokens without special ones; a limit of 0 keeps all."""
    if limit == 0:
        return texts
    all_offsets = _offsets(tokenizer, texts)
    return [_cut(tokenizer, text, offsets, limit) for text, offsets in zip(texts, all_offsets, strict=True)]


def _offsets(tokenizer: Tokenizer, texts: list[str]) -> list[list[tuple[int, int]]]:
    """Start and end character of every content token."""
    encodings = tokenizer.hf.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    return [encoding.offsets for encoding in encodings]


def _cut(tokenizer: Tokenizer, text: str, offsets: list[tuple[int, int]], limit: int) -> str:
    """Cut where the first dropped token starts (tokens may share a character), again until the result fits."""
    keep = limit
    while text and len(offsets) > limit:
        end = min(offsets[keep - 1][1], offsets[keep][0]) if keep > 0 else 0
        if end >= len(text):  # overlapping tokens: give up one more
            keep -= 1
            continue
        text, keep = text[:end], limit
        (offsets,) = _offsets(tokenizer, [text])
    return text
