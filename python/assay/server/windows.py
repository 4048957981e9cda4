"""Long texts in windows: where to cut them, and one score of many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from assay.server.errors import refuse

if TYPE_CHECKING:
    from torch import Tensor

    from assay.server.request import LongInput
    from assay.tokenizer import Tokenizer

SLACK: Final = 64
"""One token in this many is left free: a piece of text may become a few more tokens than it was inside the whole."""


def window_size(room: int) -> int:
    """Content tokens of one window where the model has `room` for them beside everything else."""
    size = room - max(1, room // SLACK)
    if size < 1:
        raise refuse("long_input: the query and the template leave no room for the text", param="long_input")
    return size


def split_text(tokenizer: Tokenizer, text: str, size: int, long_input: LongInput) -> list[str]:
    """`text` in windows of at most `size` content tokens, cut between tokens and, where one is near, between words."""
    encoding = tokenizer.backend.encode(text, add_special_tokens=False)
    offsets: list[tuple[int, int]] = encoding.offsets
    if len(offsets) <= size:
        return [text]
    words: list[int | None] = encoding.word_ids
    spans = window_spans(len(offsets), size, long_input, words)
    return [text[offsets[start][0] : offsets[stop - 1][1]] for start, stop in spans]


def window_spans(
    count: int, size: int, long_input: LongInput, words: list[int | None] | None = None
) -> list[tuple[int, int]]:
    """Start and stop of every window over `count` tokens; together they cover them all."""
    stride = size if long_input.stride is None else long_input.stride
    if stride > size:
        raise refuse(f"long_input.stride ({stride}) must not be larger than a window ({size} tokens)", param="stride")
    spans = []
    start = 0
    while True:
        stop = min(count, start + size)
        if stop < count:
            stop = _word_start(words, start + (size + 1) // 2, stop)
        spans.append((start, stop))
        if stop == count:
            return spans
        start = max(start + 1, min(stop, _word_start(words, start + 1, start + stride)))


def _word_start(words: list[int | None] | None, least: int, index: int) -> int:
    """The last token from `least` to `index` that begins a word, or `index` where none does."""
    if words is None:
        return index
    for candidate in range(index, max(least, 1) - 1, -1):
        if words[candidate] != words[candidate - 1]:
            return candidate
    return index


def combined(parts: list[Tensor], aggregate: str) -> Tensor:
    """The scores of a text's windows as one, label by label."""
    import torch

    if len(parts) == 1 or aggregate == "first":
        return parts[0]
    stacked = torch.stack(parts)
    return stacked.amax(dim=0) if aggregate == "max" else stacked.mean(dim=0)
