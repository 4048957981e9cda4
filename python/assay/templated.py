"""A scored pair as a template renders it. What does not fit is cut from the document before it is rendered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from assay.errors import ValidationError
from assay.text_limits import CHARS_PER_TOKEN, cut_texts

if TYPE_CHECKING:
    from assay.batch import Sequence
    from assay.templates import Template
    from assay.tokenize_options import TokenizeOptions
    from assay.tokenizer import Tokenizer

MAX_FRAMES: Final = 256
"""Queries of one call whose frame is kept."""


@dataclass(frozen=True, slots=True)
class ScoreTemplate:
    """A template with everything but the pair.

    variables: what else it may read (`instruction`, ...). prompt: a system message before every pair; takes_system: an
    instruction stands there too. added_bos: the token the tokenizer puts in front by itself, as text: where the
    template writes it as well it is dropped, so that it is there once. ends: how every text of it begins and ends,
    where pairs may come rendered already. suffix_ids: tokens behind every pair. frames: pairs without document, encoded
    already.
    """

    template: Template
    variables: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | None = None
    takes_system: bool = False
    added_bos: str | None = None
    ends: tuple[str, str] | None = None
    suffix_ids: tuple[int, ...] = ()
    frames: dict[str, Sequence] = field(default_factory=dict, init=False, repr=False, compare=False)

    def text(self, query: str, doc: str, *, has_special_tokens: bool = True) -> str:
        """The rendered pair. has_special_tokens: the tokenizer will add its own; raises ValidationError."""
        messages = [{"role": "query", "content": query}, {"role": "document", "content": doc}]
        system = (self._instruction or self.prompt) if self.takes_system else self.prompt
        if system:
            messages.insert(0, {"role": "system", "content": system})
        text = self.template.render([self._message(message) for message in messages], **self.variables)
        return text.removeprefix(self.added_bos) if has_special_tokens and self.added_bos else text

    def has_rendered(self, query: str, doc: str) -> bool:
        """Whether the caller has put the prompt around the pair already: the two texts are then only joined."""
        return self.ends is not None and query.startswith(self.ends[0]) and doc.endswith(self.ends[1])

    @property
    def puts_document_first(self) -> bool:
        """Whether the document stands before the query in what is rendered, and its images with it."""
        marks = "\ue002", "\ue003"
        text = self.text(*marks)
        return -1 < text.find(marks[1]) < text.find(marks[0])

    @property
    def _instruction(self) -> str | None:
        return self.variables.get("instruction") or self.variables.get("instruct")

    def _message(self, message: dict[str, str]) -> dict[str, Any]:
        if not self.template.takes_parts:
            return message
        return {**message, "content": [{"type": "text", "text": message["content"]}]}


@dataclass(frozen=True, slots=True)
class TemplatedPair:
    """A query and a document that a template brings to one text, when it is their turn to be tokenised."""

    template: ScoreTemplate
    query: str
    doc: str

    def __len__(self) -> int:
        """About how many characters the rendered pair has."""
        return len(self.query) + len(self.doc) + len(self.template.template.source)

    def text(self, options: TokenizeOptions) -> str:
        """The rendered pair, whole."""
        return self._text(self.doc, options)

    def is_long(self, options: TokenizeOptions) -> bool:
        """Whether something is sure to be cut, but for very long words."""
        size = len(self.query) + len(self.doc)
        return options.truncate_to is not None and size > CHARS_PER_TOKEN * options.truncate_to

    def fitted(self, tokenizer: Tokenizer, options: TokenizeOptions) -> Sequence:
        """The rendered pair with as much of the document as `options.truncate_to` tokens hold; the rest stays whole.

        With a side of "left" the document's end is kept. Where even an empty document leaves too much, and
        options.cut_query is set, the query is cut as well. Raises ValidationError where that is not enough, or not set.
        """
        limit, side = options.truncate_to, _side(options)
        assert limit is not None
        frame = self._frame(tokenizer, options)
        if len(frame) > limit:
            if options.cut_query:
                return self._with_short_query(tokenizer, options, limit)
            raise ValidationError(
                f"truncate_prompt_tokens={limit} leaves no room for the document: the query and the template alone "
                f"take {len(frame)} tokens"
            )
        budget = limit - len(frame)
        while budget > 0:
            (doc,) = cut_texts(tokenizer, [self.doc], budget, side)
            sequence = _encoded(tokenizer, self._text(doc, options), options)
            if len(sequence) <= limit:
                return sequence if doc == self.doc else replace(sequence, is_truncated=True, num_original=None)
            budget -= len(sequence) - limit
        return replace(frame, is_truncated=bool(self.doc), num_original=None)

    def _with_short_query(self, tokenizer: Tokenizer, options: TokenizeOptions, limit: int) -> Sequence:
        """The rendered pair with the query cut to half of what the template leaves: the same for every document."""
        bare = len(replace(self, query="")._frame(tokenizer, options))
        room = (limit - bare) // 2
        if room < 1:
            raise ValidationError(
                f"the template alone takes {bare} of the {limit} tokens that the model reads: there is no room for a "
                f"query and a document"
            )
        (query,) = cut_texts(tokenizer, [self.query], room, _side(options))
        pair = replace(self, query=query)
        return replace(pair.fitted(tokenizer, replace(options, cut_query=False)), is_truncated=True, num_original=None)

    def _frame(self, tokenizer: Tokenizer, options: TokenizeOptions) -> Sequence:
        """The pair without its document: the same for all documents of a query."""
        text = self._text("", options)
        frame = self.template.frames.get(text)
        if frame is None:
            frame = _encoded(tokenizer, text, options)
            if len(self.template.frames) < MAX_FRAMES:
                self.template.frames[text] = frame
        return frame

    def _text(self, doc: str, options: TokenizeOptions) -> str:
        text = self.template.text(self.query, doc, has_special_tokens=options.add_special_tokens)
        return text.lower() if options.do_lower_case else text


def _side(options: TokenizeOptions) -> str:
    return options.truncation_side or options.cut_side or "right"


def ends_of(template: Template) -> tuple[str, str] | None:
    """How every text of a template begins and ends; None where a pair stands at one of its ends."""
    variables: tuple[dict[str, str], ...] = ({"instruction": "a"}, {"instruction": "b"}, {})
    texts = [ScoreTemplate(template, each).text(mark, mark) for each, mark in zip(variables, "abc", strict=True)]
    head, tail = _common_start(texts), _common_start([text[::-1] for text in texts])[::-1]
    return (head, tail) if head and tail else None


def _common_start(texts: list[str]) -> str:
    first, last = min(texts), max(texts)
    size = next((index for index, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:size]


def _encoded(tokenizer: Tokenizer, text: str, options: TokenizeOptions) -> Sequence:
    (sequence,) = tokenizer.encode_batch([text], add_special_tokens=options.add_special_tokens)
    return sequence


def added_bos(tokenizer: Tokenizer) -> str | None:
    """The token that begins every encoding of a text, as text; None where the tokenizer adds none in front."""
    token, token_id = tokenizer.facts.special_tokens.get("bos_token"), tokenizer.facts.bos_token_id
    (empty,) = tokenizer.encode_batch([""])
    return token if token is not None and empty.input_ids[:1] == [token_id] else None
