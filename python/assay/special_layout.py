"""Where a tokenizer puts its special tokens and types, learnt by trying it, so that texts can be encoded one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

PROBES: Final = (("a", "b"), ("", "b"), ("a", ""), ("", ""), ("One fox, two  hens?", "日本 é <s> [SEP] x</s>"))
"""A first and a second text; single texts are tried with the second ones."""


@dataclass(frozen=True, slots=True)
class SpecialLayout:
    """Special tokens before, between and after one or two texts, and the token types of these five parts."""

    before: list[int]
    between: list[int]
    after: list[int]
    types: tuple[list[int], int, list[int], int, list[int]]

    @property
    def num_special(self) -> int:
        """Special tokens in all."""
        return len(self.before) + len(self.between) + len(self.after)

    def ids(self, first: list[int], second: list[int] | None) -> list[int]:
        """Token ids of a text, or of a pair."""
        if second is None:
            return self.before + first + self.after
        return self.before + first + self.between + second + self.after

    def type_ids(self, num_first: int, num_second: int) -> list[int]:
        """Token types of a pair of texts with so many tokens."""
        before, first, between, second, after = self.types
        return before + [first] * num_first + between + [second] * num_second + after

    @staticmethod
    def learn(backend: Any, *, is_pair: bool, add_special_tokens: bool) -> SpecialLayout | None:
        """None where an encoding is not what its texts' own encodings and the layout give, on any of the probes."""

        def whole(probe: tuple[str, str]) -> Any:
            texts = probe if is_pair else probe[1:]
            return backend.encode(*texts, add_special_tokens=add_special_tokens)

        layout = _layout(whole(PROBES[0]), is_pair)
        if layout is None:
            return None
        for probe in PROBES:
            encoding = whole(probe)
            alone = [backend.encode(text, add_special_tokens=False).ids for text in probe]
            first, second = (alone[0], alone[1]) if is_pair else (alone[1], None)
            if encoding.ids != layout.ids(first, second):
                return None
            if is_pair and encoding.type_ids != layout.type_ids(len(alone[0]), len(alone[1])):
                return None
        return layout


def _layout(encoding: Any, is_pair: bool) -> SpecialLayout | None:
    """From the encoding of texts that have at least one token each; None where the second text comes first."""
    ids, types, owners = encoding.ids, encoding.type_ids, encoding.sequence_ids
    if 0 not in owners or (is_pair and 1 not in owners):
        return None
    start, stop = owners.index(0), len(owners) - owners[::-1].index(0)
    if not is_pair:
        return SpecialLayout(ids[:start], [], ids[stop:], (types[:start], types[start], [], 0, types[stop:]))
    start_2, stop_2 = owners.index(1), len(owners) - owners[::-1].index(1)
    if start_2 < stop:
        return None
    return SpecialLayout(
        ids[:start],
        ids[stop:start_2],
        ids[stop_2:],
        (types[:start], types[start], types[stop:start_2], types[start_2], types[stop_2:]),
    )
