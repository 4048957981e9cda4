"""Text to token ids: the model's Hugging Face tokenizer, its Rust backend called directly.

The backend is never reconfigured after loading, so any number of threads may encode at once; it releases the GIL
while it works. Texts are encoded one by one without special tokens (`content.py`), truncated, and put together as the
tokenizer does it (`special_layout.py`): the query of many pairs is encoded once, and a long text only as far as it is
kept. A tokenizer whose encodings are not put together that way encodes texts and pairs whole.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.batch import Sequence
from assay.content import Content, ContentEncoder
from assay.errors import ConfigError, UnsupportedModelError, ValidationError
from assay.files import sentence_config
from assay.special_layout import SpecialLayout
from assay.tokenizer_facts import facts_of
from assay.tokenizer_files import plain_tokenizer
from assay.truncation import Cut, checked_types, end_of, longest_first, second_gives

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from assay.files import ModelFiles
    from assay.hf_config import HFConfig
    from assay.tokenizer_facts import TokenizerFacts

    Text = str | tuple[str, str]

MAX_FIRST_TEXTS = 64
"""First texts of pairs kept encoded for later chunks; where every pair has its own there is nothing to gain."""
MIN_REACH, REACH_GROWTH = 64, 4
"""Tokens of both texts of a pair that are looked at to see which is longer; so many times more in every further try."""


class Tokenizer:
    """Encodes single texts and pairs.

    backend: the `tokenizers.Tokenizer`, without truncation and padding. facts: what else is asked of it.
    """

    def __init__(
        self, backend: Any, facts: TokenizerFacts, load_hf: Callable[[], Any], *, do_lower_case: bool = False
    ) -> None:
        self.backend = backend
        self.facts = facts
        self._load_hf = load_hf
        self.do_lower_case = do_lower_case
        self._num_added = {pair: backend.num_special_tokens_to_add(pair) for pair in (False, True)}
        self.content = ContentEncoder(backend)
        self._layouts = {
            (is_pair, add): SpecialLayout.learn(backend, is_pair=is_pair, add_special_tokens=add)
            for is_pair in (False, True)
            for add in (False, True)
        }

    @classmethod
    def from_files(
        cls,
        files: ModelFiles,
        hf_config: HFConfig | None = None,
        tokenizer: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> Tokenizer:
        """The tokenizer of the model folder, or another one by name or folder; raises ConfigError where none loads."""
        del hf_config  # the model type is read from the tokenizer's own folder, as transformers does
        source = str(files.folder) if tokenizer is None else tokenizer
        do_lower_case = bool(sentence_config(files.folder).get("do_lower_case", False))

        def from_transformers() -> Any:
            return _from_transformers(
                source, None if tokenizer is None else revision, token, is_local=tokenizer is None
            )

        def load_hf() -> Any:
            hf = from_transformers()
            _prepare(hf.backend_tokenizer, do_lower_case)
            return hf

        plain = plain_tokenizer(Path(source)) if Path(source).is_dir() else None
        if plain is not None:
            _prepare(plain.backend, do_lower_case)
            return cls(plain.backend, plain.facts, load_hf, do_lower_case=do_lower_case)
        return cls.around(from_transformers(), do_lower_case=do_lower_case)

    @classmethod
    def around(cls, hf: Any, *, do_lower_case: bool = False) -> Tokenizer:
        """The same around a transformers tokenizer; raises UnsupportedModelError where it has no fast backend."""
        backend = getattr(hf, "backend_tokenizer", None)
        if backend is None:
            raise UnsupportedModelError(
                f"tokenizer {type(hf).__name__} has no fast (Rust) backend: save it as tokenizer.json first"
            )
        _prepare(backend, do_lower_case)
        return cls(backend, facts_of(hf), lambda: hf, do_lower_case=do_lower_case)

    @functools.cached_property
    def hf(self) -> Any:
        """The transformers tokenizer of the same files; raises ConfigError where they are gone by now.

        Importing transformers takes seconds, so whoever needs only ids and `facts` leaves this alone.
        """
        return self._load_hf()

    @property
    def pad_token_id(self) -> int | None:
        return self.facts.pad_token_id

    @property
    def model_max_length(self) -> int | None:
        """The tokenizer's own length limit, None where it states none."""
        return self.facts.model_max_length

    @property
    def truncation_side(self) -> str:
        """The side the tokenizer cuts when the caller names none."""
        return self.facts.truncation_side

    @functools.cached_property
    def max_token_id(self) -> int:
        """The largest id the tokenizer can give."""
        return max(self._vocab.values(), default=-1)

    @functools.cached_property
    def max_chars_per_token(self) -> int:
        """Characters of the longest vocabulary entry: an upper bound on text per token."""
        return max(map(len, self._vocab), default=1)

    @functools.cached_property
    def _vocab(self) -> dict[str, int]:
        vocab: dict[str, int] = self.backend.get_vocab(with_added_tokens=True)
        return vocab

    def num_special_tokens(self, *, is_pair: bool) -> int:
        """How many special tokens an encoding carries."""
        return int(self._num_added[is_pair])

    def tokens(self, token_ids: list[int]) -> list[str | None]:
        """The vocabulary's entry for every id; None where there is none."""
        return [self.backend.id_to_token(token_id) for token_id in token_ids]

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        """Text of token ids."""
        return str(self.backend.decode(token_ids, skip_special_tokens=skip_special_tokens))

    def encode_batch(
        self,
        texts: list[Text],
        *,
        add_special_tokens: bool = True,
        max_length: int | None = None,
        truncation_side: str | None = None,
        truncate_to: int | None = None,
        cut_side: str | None = None,
        only_second: bool = False,
        first_texts: dict[str, Content] | None = None,
    ) -> list[Sequence]:
        """Token ids of texts and (text, text_pair) tuples, equal to the transformers tokenizer's.

        truncate_to: keep that many tokens; None keeps all, except that of a text far longer than max_length only some
        more than max_length are given, as truncated. Without truncation_side the cut is the tokenizer's own (special
        tokens survive, the longer text of a pair loses first); with "left" or "right" the finished ids are sliced.
        max_length: the model's limit, which bounds the text looked at before such a slice. cut_side: the side of the
        tokenizer's own cut; None leaves it to its files. only_second: of a pair only the second text is cut where
        truncation_side is None; ValidationError where nothing of it would be left.
        first_texts: first texts of pairs encoded already, by calls with the same options; new ones are added, if few.
        """
        if truncation_side not in (None, "left", "right"):
            raise ValidationError(
                "`truncation_side` must be either 'left' or 'right'.", "truncation_side", truncation_side
            )
        if truncate_to is not None and truncation_side is not None and max_length is not None:
            limit = max_length * self.max_chars_per_token
            texts = [_trimmed(text, limit, truncation_side) for text in texts]
        layouts = [self._layouts[not isinstance(text, str), add_special_tokens] for text in texts]
        if any(layout is None for layout in layouts):
            return self.encode_whole(texts, add_special_tokens, truncate_to, truncation_side, only_second, cut_side)
        side = truncation_side or cut_side or self.truncation_side
        cut = Cut(truncate_to, side, is_slice=truncation_side is not None, only_second=only_second)
        return self._encode_parts(texts, layouts, cut, side, max_length, truncate_to, first_texts)

    def _encode_parts(
        self,
        texts: list[Text],
        layouts: list[SpecialLayout | None],
        cut: Cut,
        side: str,
        max_length: int | None,
        truncate_to: int | None,
        first_texts: dict[str, Content] | None,
    ) -> list[Sequence]:
        """Every text on its own, then put together."""
        firsts = dict(first_texts or {})  # a copy: other threads add to it
        singles = [text if isinstance(text, str) else text[1] for text in texts]
        new = list(dict.fromkeys(text[0] for text in texts if not isinstance(text, str) and text[0] not in firsts))
        keep = max_length if truncate_to is None else truncate_to
        with refusals_explained(texts):
            contents = self.content.encode(singles + new, keep, side, cuts=truncate_to is not None)
        firsts.update(zip(new, contents[len(singles) :], strict=True))
        if first_texts is not None and len(firsts) <= MAX_FIRST_TEXTS:
            first_texts.update(firsts)
        sequences = []
        for text, content, layout in zip(texts, contents, layouts, strict=False):
            assert layout is not None
            if isinstance(text, str):
                sequences.append(cut.single(layout, content))
                continue
            first, second = firsts[text[0]], content
            reach = keep or 0
            while cut.needs_counts(layout, first, second):
                # Step by step: a long text takes a hundred times its size while it is encoded, and one is often short.
                reach = max(MIN_REACH, REACH_GROWTH * reach)
                first, second = self.content.encode(list(text), reach, side)
            sequences.append(cut.pair(layout, first, second, has_types=self.facts.has_token_types))
        return sequences

    def encode_whole(
        self,
        texts: list[Text],
        add_special_tokens: bool,
        truncate_to: int | None,
        truncation_side: str | None,
        only_second: bool = False,
        cut_side: str | None = None,
    ) -> list[Sequence]:
        """The same for any tokenizer: the backend encodes each text or pair to its end, and the result is cut."""
        sequences = []
        for text, encoding in zip(texts, self._encode(texts, add_special_tokens), strict=True):
            is_pair = not isinstance(text, str)
            ids: list[int] = encoding.ids
            types: list[int] | None = encoding.type_ids if self.facts.has_token_types and is_pair else None
            size = len(ids)
            if truncate_to is not None and size > truncate_to:
                if truncation_side is None:
                    num_added = self._num_added[is_pair] if add_special_tokens else 0
                    keep = second_gives if only_second and is_pair else longest_first
                    side = cut_side or self.truncation_side
                    pieces = _pieces(encoding, truncate_to, num_added, keep, side)
                else:
                    pieces = [end_of(0, size, truncate_to, truncation_side)]
                ids = [token for piece in pieces for token in ids[piece]]
                types = None if types is None else [kind for piece in pieces for kind in types[piece]]
            sequences.append(Sequence(ids, checked_types(types), size > len(ids), size))
        return sequences

    def _encode(self, texts: list[Text], add_special_tokens: bool) -> list[Any]:
        with refusals_explained(texts):
            if len(texts) == 1:  # the batch form would wake the backend's thread pool for nothing
                single = (texts[0],) if isinstance(texts[0], str) else texts[0]
                return [self.backend.encode(*single, add_special_tokens=add_special_tokens)]
            encodings: list[Any] = self.backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
            return encodings


def _pieces(
    encoding: Any, length: int, num_added: int, keep_of: Callable[[int, int, int], tuple[int, int]], side: str
) -> list[slice]:
    """What to keep of an encoding so that `length` tokens remain, cut the way the tokenizer itself cuts."""
    size = len(encoding.ids)
    if length < num_added:
        return [end_of(0, size, length, side)]
    owners: list[int | None] = encoding.sequence_ids
    spans = [_span(owners, which) for which in (0, 1)]
    lengths = [stop - start for start, stop in spans]
    keep = keep_of(lengths[0], lengths[1], length - (size - sum(lengths)))
    pieces, done = [], 0
    for (start, stop), count in zip(spans, keep, strict=True):
        if start == stop:
            continue
        pieces += [slice(done, start), end_of(start, stop, count, side)]
        done = stop
    return [*pieces, slice(done, size)]


def _span(owners: list[int | None], which: int) -> tuple[int, int]:
    """Start and stop of the tokens of one text; an absent or empty text gives an empty span."""
    count = owners.count(which)
    start = owners.index(which) if count else 0
    return start, start + count


def _trimmed(text: Text, limit: int, side: str) -> Text:
    if not isinstance(text, str) or len(text) <= limit:
        return text
    return text[:limit] if side == "right" else text[len(text) - limit :]


@contextmanager
def refusals_explained(texts: Iterable[Any]) -> Iterator[None]:
    """Where the backend refuses one of `texts`, which it does by a TypeError of its own: a ValidationError says why."""
    try:
        yield
    except TypeError:
        for text in texts:
            _check_text(text)
        raise


def _check_text(text: Any) -> None:
    """Raise the ValidationError that explains why the backend refused a text."""
    for part in (text,) if isinstance(text, str) else tuple(text):
        if not isinstance(part, str):
            raise ValidationError(f"a prompt must be a string or a pair of them, got {type(part).__name__}", "prompt")
        try:
            part.encode("utf-8")
        except UnicodeEncodeError as err:
            raise ValidationError(
                f"the prompt is not valid Unicode: lone surrogate U+{ord(part[err.start]):04X} at index {err.start}",
                "prompt",
            ) from None


def _from_transformers(source: str, revision: str | None, token: str | bool | None, *, is_local: bool) -> Any:
    """A transformers tokenizer by folder or name; raises ConfigError or UnsupportedModelError."""
    from transformers import AutoTokenizer

    try:
        hf = AutoTokenizer.from_pretrained(
            source, revision=revision, token=token, local_files_only=is_local, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError, TypeError) as err:
        raise ConfigError(f"tokenizer {source!r} cannot be loaded: {err}") from err
    if len(hf) <= len(set(hf.all_special_ids)):  # transformers makes an empty one up where files are missing
        raise ConfigError(f"tokenizer {source!r} has no vocabulary: its files are missing")
    return hf


def _prepare(backend: Any, do_lower_case: bool) -> None:
    """The last changes to a backend: from here on any number of threads may use it."""
    backend.no_truncation()
    backend.no_padding()
    if do_lower_case:
        _lower_first(backend)


def _lower_first(backend: Any) -> None:
    """Lower-case the text before anything else, unless the tokenizer lower-cases already."""
    from tokenizers import normalizers

    def lowers(normalizer: Any) -> bool:
        if isinstance(normalizer, normalizers.Sequence):
            parts: Any = normalizer
            return any(lowers(part) for part in parts)
        if isinstance(normalizer, normalizers.BertNormalizer):
            return bool(normalizer.lowercase)
        return isinstance(normalizer, normalizers.Lowercase)

    current = backend.normalizer
    if lowers(current):
        return
    rest = [] if current is None else [current]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])
