"""Cutting a text to a number of content tokens, at a character boundary the tokenizer knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from assay.tokenizer import refusals_explained

if TYPE_CHECKING:
    from assay.tokenizer import Tokenizer

    Offsets = list[tuple[int, int]]

CHARS_PER_TOKEN: Final = 8
"""A long text is looked at in pieces of this many characters per token wanted, so that a cut costs what it keeps."""
MARGIN: Final = 32
"""Tokens a piece must have beyond the cut: what follows the piece changes no token before it."""


def cut_texts(tokenizer: Tokenizer, texts: list[str], limit: int, side: str = "right") -> list[str]:
    """Each text cut so that it has at most `limit` tokens without special ones; a limit of 0 keeps all.

    side: where to cut; "left" keeps the end of a text. Raises ValidationError for a text the backend refuses.
    """
    if limit == 0:
        return texts
    cut = []
    with refusals_explained(texts):
        pieces = [_end(text, CHARS_PER_TOKEN * (limit + MARGIN), side) for text in texts]
        all_offsets = _offsets(tokenizer, pieces)
        for text, piece, offsets in zip(texts, pieces, all_offsets, strict=True):
            while len(piece) < len(text) and len(offsets) < limit + MARGIN:
                piece = _end(text, 4 * len(piece), side)
                (offsets,) = _offsets(tokenizer, [piece])
            cut.append(_cut(tokenizer, piece, offsets, limit, side))
    return cut


def _end(text: str, size: int, side: str) -> str:
    """At most `size` characters, the first of a text or with side "left" the last."""
    return text[:size] if side == "right" else text[max(0, len(text) - size) :]


def _offsets(tokenizer: Tokenizer, texts: list[str]) -> list[Offsets]:
    """Start and end character of every content token."""
    encodings = tokenizer.backend.encode_batch(texts, add_special_tokens=False)
    return [encoding.offsets for encoding in encodings]


def _cut(tokenizer: Tokenizer, text: str, offsets: Offsets, limit: int, side: str) -> str:
    """Cut where the first dropped token starts (tokens may share a character), again until the result fits."""
    keep = limit
    while text and len(offsets) > limit:
        size = _kept_size(len(text), offsets, keep, side)
        if size >= len(text):  # overlapping tokens: give up one more
            keep -= 1
            continue
        text, keep = _end(text, size, side), limit
        (offsets,) = _offsets(tokenizer, [text])
    return text


def _kept_size(size: int, offsets: Offsets, keep: int, side: str) -> int:
    """Characters that the first `keep` tokens take, or with side "left" the last."""
    if keep == 0:
        return 0
    if side == "right":
        return min(offsets[keep - 1][1], offsets[keep][0])
    return size - max(offsets[-keep][0], offsets[-keep - 1][1])
