"""Texts to token ids without special tokens, at a cost bounded by the tokens that are kept of a text."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

MARGIN_WORDS: Final = 32
"""Words next to a cut whose tokens are not trusted: far more than any rule of a local tokenizer looks at."""
CHARACTERS_PER_TOKEN: Final = (5, 20)
"""How much text is tried per kept token, before all of it."""
REFUSED_CHARACTERS_PER_TOKEN: Final = (32,)
"""The same for texts that are not truncated, where the only question is whether they are too long."""
CHARACTERS_PER_WORD: Final = 8
WORTH_A_CUT: Final = 1.5
"""A text is encoded to its end unless it is so many times longer than what is tried."""
FEW_TEXTS: Final = 2
"""So many are encoded one by one: the batch form wakes the backend's threads, and a pair is done before they are."""
SINGLE_CHARACTERS: Final = 2000
"""More text is encoded as a batch: the backend holds the GIL during its form for a single text."""

_LOCAL_NORMALIZERS: Final = frozenset(
    "BertNormalizer Lowercase NFC NFD NFKC NFKD Nmt Precompiled Prepend Replace Sequence Strip StripAccents".split()
)
_LOCAL_PRE_TOKENIZERS: Final = frozenset(
    "BertPreTokenizer ByteLevel CharDelimiterSplit Digits Metaspace Punctuation Sequence Split Whitespace "
    "WhitespaceSplit".split()
)
_LOOK_AROUND: Final = re.compile(r"\(\?[=!<]|\\[1-9]")
_END_OF_SPACES: Final = r"(?!\S)"
"""The one look-ahead that GPT-2's family of patterns has; it sees a single character."""


class Content(NamedTuple):
    """Token ids of a text; where is_cut, only the first or last ones, more than were asked to be kept."""

    ids: list[int]
    is_cut: bool = False


class ContentEncoder:
    """Encodes with one backend, whose truncation and padding are off. Thread safe.

    Where the pre-tokenizer works on words and looks no further than their neighbours, the tokens of a word are the
    same in the whole text and in a window of it, except near the ends of the window. So the first (or last) k tokens
    come from a window that has more than k tokens besides MARGIN_WORDS words at the cut.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        added = backend.get_added_tokens_decoder().values()
        self._margin = max([MARGIN_WORDS, *(len(token.content) for token in added)])
        self._is_local = is_local(backend.normalizer, backend.pre_tokenizer)

    def encode(
        self, texts: list[str], keep: int | None = None, side: str = "right", *, cuts: bool = True
    ) -> list[Content]:
        """The ids of every text; of a text with more than `keep` tokens perhaps only those away from `side`.

        cuts: whether longer texts are truncated (they are refused otherwise, and more may be spent on their count).
        """
        rates = CHARACTERS_PER_TOKEN if cuts else REFUSED_CHARACTERS_PER_TOKEN
        if keep is None or not self._is_local or max(map(len, texts), default=0) <= self._size(keep, rates[0]):
            return [Content(ids) for ids in self._ids(texts)]
        contents: list[Content | None] = [None] * len(texts)
        for rate in rates:
            self._encode_windows(texts, contents, keep, side, rate)
        rest = [index for index, content in enumerate(contents) if content is None]
        for index, ids in zip(rest, self._ids([texts[index] for index in rest]), strict=True):
            contents[index] = Content(ids)
        return [content for content in contents if content is not None]

    def _encode_windows(
        self, texts: list[str], contents: list[Content | None], keep: int, side: str, rate: int
    ) -> None:
        """Fill in the contents of long texts where a window of `rate` characters per token is enough."""
        size = self._size(keep, rate)
        long = [index for index, text in enumerate(texts) if len(text) > size and contents[index] is None]
        windows = {index: window for index in long if (window := _window(texts[index], size, side)) is not None}
        if not windows:
            return
        encodings = self._backend.encode_batch(list(windows.values()), add_special_tokens=False)
        for index, encoding in zip(windows, encodings, strict=True):
            kept = _trusted(encoding.word_ids, self._margin, side)
            if kept.stop - kept.start > keep:
                contents[index] = Content(encoding.ids[kept], is_cut=True)

    def _size(self, keep: int, rate: int) -> int:
        """Characters of a window: for the tokens kept, and for the words at the cut."""
        return rate * keep + CHARACTERS_PER_WORD * self._margin

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if len(texts) <= FEW_TEXTS and sum(map(len, texts)) <= SINGLE_CHARACTERS:
            return [self._backend.encode(text, add_special_tokens=False).ids for text in texts]
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]


def is_local(normalizer: Any, pre_tokenizer: Any) -> bool:
    """Whether the words of a text, and what becomes of them, depend on nothing but the characters around them."""
    if pre_tokenizer is None:  # the whole text is one word
        return False
    before = [] if normalizer is None else _parts(normalizer)
    return all(part["type"] in _LOCAL_NORMALIZERS and _is_plain(part) for part in before) and all(
        part["type"] in _LOCAL_PRE_TOKENIZERS and _is_plain(part) for part in _parts(pre_tokenizer)
    )


def _parts(component: Any) -> list[dict[str, Any]]:
    """A component's description, and those of its parts."""

    def flat(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield part
        for inner in part.get("normalizers", []) + part.get("pretokenizers", []):
            yield from flat(inner)

    return list(flat(json.loads(component.__getstate__())))


def _is_plain(part: dict[str, Any]) -> bool:
    """Whether a part's pattern, if it has one, looks at nothing outside its match."""
    pattern = part.get("pattern")
    regex = pattern.get("Regex", "") if isinstance(pattern, dict) else ""
    return _LOOK_AROUND.search(regex.replace(_END_OF_SPACES, "")) is None


def _window(text: str, size: int, side: str) -> str | None:
    """The end of a text opposite to `side`, or None where that is not worth it, or not safe."""
    if len(text) < WORTH_A_CUT * size:
        return None
    if side == "right":
        return text[:size]
    start = len(text) - size
    for _ in range(size):  # patterns count digits from the first of a run
        if not text[start].isnumeric():
            return text[start:]
        start -= 1
        if start == 0:
            break
    return None


def _trusted(words: list[int | None], margin: int, side: str) -> slice:
    """The tokens of a window whose words are more than `margin` words away from its cut."""
    known = [word for word in words if word is not None]
    if not known:
        return slice(0, 0)
    if side == "right":
        last = known[-1] - margin
        stop = next((index for index, word in enumerate(words) if word is not None and word > last), len(words))
        return slice(0, stop)
    first = known[0] + margin
    start = next((index for index, word in enumerate(words) if word is not None and word >= first), len(words))
    return slice(start, len(words))
