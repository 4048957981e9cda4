"""Prompts of one call to checked sequences: tokenise, truncate, pad, then refuse what the model cannot take."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeAlias

from assay.batch import Sequence
from assay.errors import ConfigError, ValidationError
from assay.image_tokens import added_tokens, with_images
from assay.media import Illustrated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assay.content import Content
    from assay.image_patches import PixelGrid
    from assay.image_reader import ImageReader
    from assay.tokenize_options import TokenizeOptions
    from assay.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_PAD_IS_READ = (
    "a prompt ends with token %d, config.json's pad_token_id, and its score is read there: at the last token, whatever "
    "that is. transformers would read the last token that is not pad_token_id (docs/rerankers.md)"
)


class Deferred(Protocol):
    """A prompt whose text is made when it is its turn to be tokenised."""

    def __len__(self) -> int:
        """About how many characters it will have."""
        ...

    def text(self, options: TokenizeOptions) -> str:
        """All of it; raises ValidationError."""
        ...

    def is_long(self, options: TokenizeOptions) -> bool:
        """Whether it is so long that counting all of its tokens would be a waste."""
        ...

    def fitted(self, tokenizer: Tokenizer, options: TokenizeOptions) -> Sequence:
        """As much of it as has options.truncate_to tokens; raises ValidationError."""
        ...


Plain: TypeAlias = "str | tuple[str, str] | list[int]"
"""A text, a text pair or token ids."""
Renderable: TypeAlias = "Plain | Deferred | Illustrated"
_PLAIN = (str, tuple, list)
_WITH_TEXT = (*_PLAIN, Illustrated)


class Renderer:
    """Turns prompts into sequences for one model. Any number of threads may call it.

    pad_read_at_end: of a model that reads the last token of a prompt, the id that transformers would not read there.
    images: how it reads images, None where it takes none.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        vocab_size: int,
        type_vocab_size: int,
        *,
        pad_read_at_end: int | None = None,
        images: ImageReader | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._images = images
        self._pad_read_at_end = pad_read_at_end
        self._first_warning = threading.Lock()  # taken by the first warning and kept
        self._vocab_size = vocab_size
        self._type_vocab_size = type_vocab_size
        self._checks_text_ids = tokenizer is not None and tokenizer.max_token_id >= vocab_size

    def render(
        self,
        prompts: list[Renderable],
        options: TokenizeOptions,
        first_ones: list[int | None] | None = None,
        first_index: int = 0,
        first_texts: dict[str, Content] | None = None,
        *,
        has_images: bool = False,
    ) -> list[Sequence]:
        """One sequence per prompt. Raises ValidationError with a note that names the prompt (first_index + position).

        first_ones: per prompt, the index of the first token of type 1 (compressed_token_type_ids), or None.
        first_texts: keeps what the first texts of pairs are encoded to, for further calls with the same options.
        has_images: image tokens are what they should be: whoever calls has the images for them.
        """
        first = first_index if first_index + len(prompts) > 1 else None
        if any(isinstance(prompt, Illustrated) for prompt in prompts):
            return self._render_mixed(prompts, options, first_ones, first, first_texts)
        sequences = []
        plain = self._encode([prompt for prompt in prompts if isinstance(prompt, _PLAIN)], options, first_texts)
        deferred = self._encode_deferred(prompts, options, first)
        for position, prompt in enumerate(prompts):
            sequence = next(plain if isinstance(prompt, _PLAIN) else deferred)
            with _naming(first, position):
                sequence = self._sized(sequence, options, not isinstance(prompt, list))
                if first_ones is not None and first_ones[position] is not None:
                    sequence = self._with_types(sequence, first_ones[position])
                if self._images is not None and not has_images and self._images.mark.token_id in sequence.input_ids:
                    raise ValidationError("the prompt names an image it does not hold", parameter="image_url")
            if sequence.input_ids[-1] == self._pad_read_at_end and self._first_warning.acquire(blocking=False):
                logger.warning(_PAD_IS_READ, self._pad_read_at_end)
            sequences.append(sequence)
        return sequences

    def _render_mixed(
        self,
        prompts: list[Renderable],
        options: TokenizeOptions,
        first_ones: list[int | None] | None,
        first: int | None,
        first_texts: dict[str, Content] | None,
    ) -> list[Sequence]:
        """Of prompts with images, and others among them: those that leave as many tokens for text go together."""
        sources = [source for prompt in prompts if isinstance(prompt, Illustrated) for source in prompt.images]
        # held until every prompt has asked for its own
        read_already = [] if self._images is None else self._images.read_all(sources)
        groups: dict[tuple[int, bool], list[int]] = {}
        grids: list[list[PixelGrid]] = []
        for position, prompt in enumerate(prompts):
            with _naming(first, position):
                grids.append(self._grids(prompt))
            groups.setdefault((added_tokens(prompt, grids[-1]), bool(grids[-1])), []).append(position)
        del read_already
        sequences: dict[int, Sequence] = {}
        for (added, has_images), places in groups.items():
            if len(places) > 1:
                with contextlib.suppress(ValidationError):  # one by one below, which tells whose it is
                    sequences.update(self._group(places, prompts, options, first_ones, first_texts, added, has_images))
            for position in places:
                if position not in sequences:
                    with _naming(first, position):
                        one = self._group([position], prompts, options, first_ones, first_texts, added, has_images)
                        sequences.update(one)
        mark = None if self._images is None else self._images.mark
        rendered = []
        for position, prompt in enumerate(prompts):
            with _naming(first, position):
                whole = sequences[position]
                if isinstance(prompt, Illustrated):
                    whole = with_images(whole, prompt, grids[position], mark)
                rendered.append(self._sized(whole, dataclasses.replace(options, truncate_to=None), is_text=True))
        return rendered

    def _grids(self, prompt: Renderable) -> list[PixelGrid]:
        """The images of a prompt, read."""
        if not isinstance(prompt, Illustrated) or not prompt.images:
            return []
        assert self._images is not None
        return [source.grid(self._images) for source in prompt.images]

    def _group(
        self,
        places: list[int],
        prompts: list[Renderable],
        options: TokenizeOptions,
        first_ones: list[int | None] | None,
        first_texts: dict[str, Content] | None,
        added: int,
        has_images: bool,
    ) -> dict[int, Sequence]:
        """Sequences of those prompts without their images, which `added` tokens are left free for."""
        room = None if options.truncate_to is None else options.truncate_to - added
        if room is not None and room < 1:
            raise ValidationError(
                f"truncate_prompt_tokens={options.truncate_to} leaves no room for text: what stands beside it takes "
                f"{added} tokens",
                parameter="truncate_prompt_tokens",
            )
        plain = [prompts[place] for place in places]
        plain = [prompt.prompt if isinstance(prompt, Illustrated) else prompt for prompt in plain]
        ones = None if first_ones is None else [first_ones[place] for place in places]
        short = dataclasses.replace(options, truncate_to=room, pad_to=None)
        rendered = self.render(plain, short, ones, 0, first_texts, has_images=has_images)
        return dict(zip(places, rendered, strict=True))

    def _encode_deferred(
        self, prompts: list[Renderable], options: TokenizeOptions, first: int | None
    ) -> Iterator[Sequence]:
        """Sequences of the deferred prompts, of at most options.truncate_to tokens."""
        deferred = {place: prompt for place, prompt in enumerate(prompts) if not isinstance(prompt, _WITH_TEXT)}
        texts: dict[int, str] = {}
        for position, prompt in deferred.items():
            with _naming(first, position):
                texts[position] = prompt.text(options)
        if options.truncate_to is None or self.tokenizer is None:
            yield from self._encode([*texts.values()], options, None)
            return
        self._check_lowering(options)
        counted = [position for position, prompt in deferred.items() if not prompt.is_long(options)]
        encoded = self.tokenizer.encode_batch(
            [texts[position] for position in counted], add_special_tokens=options.add_special_tokens
        )
        whole = dict(zip(counted, encoded, strict=True))
        for position, prompt in deferred.items():
            sequence = whole.get(position)
            if sequence is None or len(sequence) > options.truncate_to:
                num_original = None if sequence is None else len(sequence)
                with _naming(first, position):
                    sequence = prompt.fitted(self.tokenizer, options)
                if sequence.is_truncated:
                    sequence = dataclasses.replace(sequence, num_original=num_original)
            yield sequence

    def _encode(
        self, prompts: list[Plain], options: TokenizeOptions, first_texts: dict[str, Content] | None
    ) -> Iterator[Sequence]:
        """Sequences before padding and checks; all texts go through the tokenizer at once."""
        texts = [prompt for prompt in prompts if not isinstance(prompt, list)]
        if not texts:
            return iter([Sequence(prompt) for prompt in prompts if isinstance(prompt, list)])
        if self.tokenizer is None:
            raise ValidationError("You cannot pass text prompts when `skip_tokenizer_init=True`")
        self._check_lowering(options)
        if options.do_lower_case:
            texts = [text.lower() if isinstance(text, str) else (text[0].lower(), text[1].lower()) for text in texts]
        if options.truncate_to is None:
            limit = options.max_length * self.tokenizer.max_chars_per_token
            for text in texts:
                _check_characters(text, limit, options.max_length)
        encoded = self.tokenizer.encode_batch(
            texts,
            add_special_tokens=options.add_special_tokens,
            max_length=options.max_length,
            truncation_side=options.truncation_side,
            truncate_to=options.truncate_to,
            cut_side=options.cut_side,
            only_second=options.only_second,
            first_texts=first_texts,
        )
        results = iter(encoded)
        if len(encoded) == len(prompts):
            return results
        return iter([Sequence(prompt) if isinstance(prompt, list) else next(results) for prompt in prompts])

    def _check_lowering(self, options: TokenizeOptions) -> None:
        if options.do_lower_case is False and self.tokenizer is not None and self.tokenizer.do_lower_case:
            raise ValidationError("do_lower_case=False cannot undo the do_lower_case of the model folder")

    def _sized(self, sequence: Sequence, options: TokenizeOptions, is_text: bool) -> Sequence:
        ids = sequence.input_ids
        if not is_text and options.truncate_to is not None and len(ids) > options.truncate_to:
            start = len(ids) - options.truncate_to if options.truncation_side == "left" else 0
            num_original = len(ids)
            ids = ids[start : start + options.truncate_to]
            sequence = Sequence(ids, None, True, num_original)
        if not ids:
            raise ValidationError("The decoder prompt cannot be empty")
        if len(ids) > options.max_length:
            counted = f"{'at least ' if sequence.is_truncated else ''}{len(ids)}"
            raise ValidationError(
                f"This model's maximum context length is {options.max_length} tokens. However, your prompt contains "
                f"{counted} input tokens, which exceeds this limit even without any output tokens. "
                f"Please reduce the length of the input prompt.",
                parameter="input_tokens",
                value=len(ids),
            )
        if not is_text or self._checks_text_ids:
            self._check_ids(ids)
        if options.pad_to is not None and options.pad_to > len(ids):
            sequence = self._padded(sequence, options.pad_to)
        return sequence

    def _check_ids(self, ids: list[int]) -> None:
        if min(ids) >= 0 and max(ids) < self._vocab_size:
            return
        wrong = next(token_id for token_id in ids if not 0 <= token_id < self._vocab_size)
        raise ValidationError(f"Token id {wrong} is out of vocabulary")

    def _padded(self, sequence: Sequence, length: int) -> Sequence:
        if self.tokenizer is None:
            raise ValidationError("Cannot pad tokens when `skip_tokenizer_init=True`")
        if self.tokenizer.pad_token_id is None:
            raise ConfigError("the tokenizer has no pad token: padding is not possible")
        missing = length - len(sequence)
        types = sequence.token_type_ids
        return dataclasses.replace(
            sequence,
            input_ids=sequence.input_ids + [self.tokenizer.pad_token_id] * missing,
            token_type_ids=types and types + types[-1:] * missing,
            num_original=sequence.num_tokens_before_truncation,
        )

    def _with_types(self, sequence: Sequence, first_one: int | None) -> Sequence:
        size = len(sequence)
        if isinstance(first_one, bool) or not isinstance(first_one, int) or first_one < 0:
            raise ValidationError(f"compressed_token_type_ids must be a non-negative integer, got {first_one!r}")
        if first_one >= size:
            return dataclasses.replace(sequence, token_type_ids=None)
        if self._type_vocab_size < 2:
            raise ValidationError(
                f"compressed_token_type_ids={first_one} needs token type 1, the model has {self._type_vocab_size} types"
            )
        return dataclasses.replace(sequence, token_type_ids=[0] * first_one + [1] * (size - first_one))


@contextmanager
def _naming(first: int | None, position: int) -> Iterator[None]:
    """Let a ValidationError say which prompt it is about; `first` is the number of the first one, None for a single."""
    try:
        yield
    except ValidationError as err:
        if first is not None:
            err.add_note(f"in prompts[{first + position}]")
        raise


def _check_characters(text: str | tuple[str, str], limit: int, max_length: int) -> None:
    """Refuse a text too long for any tokenisation to fit, before spending time on it."""
    size = len(text) if isinstance(text, str) else len(text[0]) + len(text[1])
    if size > limit:
        raise ValidationError(
            f"This model's maximum context length is {max_length} tokens. However, your prompt contains {size} "
            f"characters (more than {limit} characters, which is the upper bound for {max_length} input tokens). "
            f"Please reduce the length of the input prompt.",
            parameter="input_text",
            value=size,
        )
