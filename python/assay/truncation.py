"""Cutting token ids to a length, the way a tokenizer does it or as a plain slice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.batch import Sequence
from assay.errors import ValidationError

if TYPE_CHECKING:
    from assay.content import Content
    from assay.special_layout import SpecialLayout


class Cut:
    """How encodings put together from their texts are truncated; `is_slice` cuts through special tokens too.

    only_second: of a pair the second text alone is cut, instead of the longer one.
    """

    def __init__(self, length: int | None, side: str, *, is_slice: bool, only_second: bool = False) -> None:
        self._length = length
        self._side = side
        self._is_slice = is_slice
        self._keep = second_gives if only_second else longest_first
        self._only_second = only_second

    def needs_counts(self, layout: SpecialLayout, first: Content, second: Content) -> bool:
        """Whether the result depends on which of two texts is longer, and what was encoded of them does not tell.

        Both have more tokens than there is room for: each gets half, and an odd token goes to the longer one.
        """
        if self._length is None or self._is_slice or self._only_second or not (first.is_cut or second.is_cut):
            return False
        if first.is_cut != second.is_cut:
            part, whole = (first, second) if first.is_cut else (second, first)
            if len(part.ids) > len(whole.ids):
                return False
        room = self._length - layout.num_special
        return room % 2 == 1 and min(len(first.ids), len(second.ids)) > room

    def single(self, layout: SpecialLayout, content: Content) -> Sequence:
        """The sequence of one text."""
        ids = content.ids
        size = len(ids) + layout.num_special
        if self._length is None or size <= self._length:
            return Sequence(layout.ids(ids, None), None, content.is_cut, None if content.is_cut else size)
        if self._is_slice or self._length < layout.num_special:
            ids = layout.ids(ids, None)[end_of(0, size, self._length, self._side)]
        else:
            ids = layout.ids(ids[end_of(0, len(ids), self._length - layout.num_special, self._side)], None)
        return Sequence(ids, None, True, None if content.is_cut else size)

    def pair(self, layout: SpecialLayout, first: Content, second: Content, *, has_types: bool) -> Sequence:
        """The sequence of a pair; with has_types the model tells its texts apart."""
        one, two = first.ids, second.ids
        size = len(one) + len(two) + layout.num_special
        is_cut = first.is_cut or second.is_cut
        whole = slice(0, size)
        if self._length is not None and size > self._length:
            if self._is_slice or self._length < layout.num_special:
                whole = end_of(0, size, self._length, self._side)
            else:
                num_one, num_two = self._keep(len(one), len(two), self._length - layout.num_special)
                one, two = one[end_of(0, len(one), num_one, self._side)], two[end_of(0, len(two), num_two, self._side)]
        ids = layout.ids(one, two)[whole]
        types = layout.type_ids(len(one), len(two))[whole] if has_types else None
        return Sequence(ids, checked_types(types), is_cut or size > len(ids), None if is_cut else size)


def longest_first(first: int, second: int, budget: int) -> tuple[int, int]:
    """Tokens kept of each text: the longer one gives first, and an odd token goes to the second (or the longer)."""
    short, long = sorted((first, second))
    if first + second <= budget:
        return first, second
    if 2 * short <= budget:
        long = budget - short
    else:
        short = budget // 2
        long = budget - short
    return (long, short) if first > second else (short, long)


def second_gives(first: int, second: int, budget: int) -> tuple[int, int]:
    """Tokens kept of each text where only the second is cut; raises ValidationError where none of it would be left."""
    if first + second <= budget:
        return first, second
    if first >= budget:
        raise ValidationError(
            f"Truncation error: only the second text is cut, and with the first text's {first} tokens none of the "
            f"second is left",
            "truncate_prompt_tokens",
        )
    return first, budget - first


def end_of(start: int, stop: int, count: int, side: str) -> slice:
    """`count` items of a span, cut on `side`."""
    count = min(count, stop - start)
    return slice(start, start + count) if side == "right" else slice(stop - count, stop)


def checked_types(types: list[int] | None) -> list[int] | None:
    """Token types as one block of ones after one of zeros; None where all are zero."""
    if types is None or not any(types):
        return None
    ones = types.count(1)
    if any(types[: len(types) - ones]) or types.count(0) + ones != len(types):
        raise ValueError("Token type ids are expected to be a sequence of zeros followed by a sequence of ones")
    return types
