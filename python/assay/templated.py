"""A scored pair as a template renders it. What does not fit is cut from the document before it is rendered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from assay.errors import ValidationError
from assay.rendering import Fitted
from assay.text_limits import CHARS_PER_TOKEN, cut_texts

if TYPE_CHECKING:
    from assay.templates import Template
    from assay.tokenize_options import TokenizeOptions
    from assay.tokenizer import Tokenizer

_ADDED: Final = 8
"""More tokens than any tokenizer adds to a text of its own accord."""


@dataclass(frozen=True, slots=True)
class ScoreTemplate:
    """A template with everything but the pair.

    variables: what else it may read (`instruction`, ...). prompt: a system message before every pair; takes_system: an
    instruction stands there too. added_bos: the token the tokenizer puts in front by itself, as text: where the
    template writes it as well it is dropped, so that it is there once.
    """

    template: Template
    variables: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | None = None
    takes_system: bool = False
    added_bos: str | None = None

    def text(self, query: str, doc: str, *, has_special_tokens: bool = True) -> str:
        """The rendered pair. has_special_tokens: the tokenizer will add its own; raises ValidationError."""
        messages = [{"role": "query", "content": query}, {"role": "document", "content": doc}]
        system = (self._instruction or self.prompt) if self.takes_system else self.prompt
        if system:
            messages.insert(0, {"role": "system", "content": system})
        text = self.template.render([self._message(message) for message in messages], **self.variables)
        return text.removeprefix(self.added_bos) if has_special_tokens and self.added_bos else text

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

    def fitted(self, tokenizer: Tokenizer, options: TokenizeOptions) -> Fitted:
        """The rendered pair, of at most `options.truncate_to` tokens: the document gives, the rest stays whole.

        options.truncation_side "left" keeps the document's end. Raises ValidationError where even an empty document
        leaves too much.
        """
        text, limit = self._text(self.doc, options), options.truncate_to
        if limit is None or _is_short(text, limit):
            return Fitted(text)
        size = None
        if len(self.doc) <= CHARS_PER_TOKEN * limit:
            size = _num_tokens(tokenizer, text, options)
            if size <= limit:
                return Fitted(text)
        frame = _num_tokens(tokenizer, self._text("", options), options)
        if frame > limit:
            raise ValidationError(
                f"truncate_prompt_tokens={limit} leaves no room for the document: the query and the template alone "
                f"take {frame} tokens"
            )
        budget = limit - frame
        while budget > 0:
            (doc,) = cut_texts(tokenizer, [self.doc], budget, options.truncation_side or "right")
            text = self._text(doc, options)
            excess = _num_tokens(tokenizer, text, options) - limit
            if excess <= 0:
                return Fitted(text, doc != self.doc, size)
            budget -= excess
        return Fitted(self._text("", options), True, size)

    def _text(self, doc: str, options: TokenizeOptions) -> str:
        return self.template.text(self.query, doc, has_special_tokens=options.add_special_tokens)


def _is_short(text: str, limit: int) -> bool:
    """Whether a text has at most `limit` tokens whatever the tokenizer: each takes a character, and it adds a few."""
    return text.isascii() and len(text) + _ADDED <= limit


def _num_tokens(tokenizer: Tokenizer, text: str, options: TokenizeOptions) -> int:
    (sequence,) = tokenizer.encode_batch([text], add_special_tokens=options.add_special_tokens)
    return len(sequence)


def added_bos(tokenizer: Tokenizer) -> str | None:
    """The token that begins every encoding of a text, as text; None where the tokenizer adds none in front."""
    token, token_id = tokenizer.hf.bos_token, tokenizer.hf.bos_token_id
    (empty,) = tokenizer.encode_batch([""])
    return str(token) if token is not None and empty.input_ids[:1] == [token_id] else None
