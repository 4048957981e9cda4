"""Images in prompts: what a model takes, how callers write them, and where they stand in the text."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from assay.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from assay.image_patches import PixelGrid

TEXT_KINDS: Final = ("text", "input_text", "output_text")
CHARACTERS_PER_IMAGE: Final = 4096
"""What an image counts for where texts are counted by characters."""

_SHORT_FORMS: Final = ("image_url", "image_pil", "image_embeds", "video_url", "audio_url", "input_audio")
"""Keys that say what a part is where it has no `type`."""
_IMAGE_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "image_url": ("image_url",),
    "input_image": ("image_url",),
    "image_pil": ("image_pil",),
    "image": ("image", "url", "image_url"),
}
"""Kinds of parts that are images, and where each may have it."""


@dataclass(slots=True, eq=False)
class ImageSource:
    """An image of a call: a URL, or pixels in memory. Thread safe.

    is_shared: several prompts show it. Its pixels are then kept as long as the call; those of others only as long as
    somebody computes with them, for a call may have many.
    """

    value: Any
    is_shared: bool = False
    _kept: PixelGrid | None = None
    _seen: weakref.ReferenceType[PixelGrid] | None = None
    _refusal: ValidationError | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def grid(self, read: Callable[[Any], PixelGrid]) -> PixelGrid:
        """The pixels as a model reads them; raises what `read` does, which is not asked again after it has refused."""
        with self._lock:
            grid = None if self._seen is None else self._seen()
            if grid is None and self._refusal is None:
                try:
                    grid = read(self.value)
                except ValidationError as err:
                    self._refusal = err
                else:
                    self._seen, self._kept = weakref.ref(grid), grid if self.is_shared else None
            if grid is None:
                assert self._refusal is not None
                refusal = self._refusal  # each prompt that shows it gets an error of its own, to write its number on
                raise ValidationError(str(refusal), refusal.parameter) from refusal
            return grid


@dataclass(frozen=True, slots=True)
class Illustrated:
    """A prompt with images. prompt: as it is without them; its text has a placeholder for each, in their order.

    suffix_ids: tokens put behind it after it is tokenised.
    """

    prompt: Any
    images: tuple[ImageSource, ...] = ()
    suffix_ids: tuple[int, ...] = ()

    def __len__(self) -> int:
        """About how many characters of text would be as much work."""
        texts = self.prompt if isinstance(self.prompt, tuple) else (self.prompt,)
        return sum(map(len, texts)) + CHARACTERS_PER_IMAGE * len(self.images)


@dataclass(frozen=True, slots=True)
class ImageRules:
    """What a vision-language model takes. placeholder: an image in a text. limit: images of a prompt."""

    placeholder: str
    limit: int

    def placed(self, text: str, num_images: int) -> str:
        """The text with a placeholder for every image: those it lacks stand in front. Raises ValidationError."""
        missing = num_images - text.count(self.placeholder)
        if missing < 0:
            raise ValidationError(
                f"Found more '{self.placeholder}' placeholders in input prompt than actual multimodal data items."
            )
        self.check_count(num_images)
        return self.placeholder * missing + text

    def check_whole(self, text: str, num_images: int) -> None:
        """Raise ValidationError where a cut of the text took a placeholder of its images."""
        if text.count(self.placeholder) != num_images:
            raise ValidationError("the limit of tokens would cut an image off its text", "image_url")

    def check_count(self, num_images: int) -> None:
        """Raise ValidationError for more images in one prompt than the model is served with."""
        if num_images > self.limit:
            raise ValidationError(f"At most {self.limit} image(s) may be provided in one prompt.", "image_url")


@dataclass(frozen=True, slots=True)
class Parts:
    """Content parts, read: texts in their order, and images; kinds: "text" or "image" of each part in turn."""

    texts: tuple[str, ...]
    images: tuple[ImageSource, ...]
    kinds: tuple[str, ...]


def read_parts(content: Sequence[Any], architecture: str, rules: ImageRules | None) -> Parts:
    """The parts of a message or of one side of a pair; rules None: of a text model, which takes no media.

    Raises ValidationError for what is no part, or a kind of media the model does not take.
    """
    texts, images, kinds = [], [], []
    for part in content:
        kind = _kind(part)
        if kind in _IMAGE_KEYS and rules is not None:
            images.append(ImageSource(_image_value(part, kind)))
            kinds.append("image")
            continue
        text = part if isinstance(part, str) else _text(part, kind)
        if text is None:
            raise _refusal(part, kind, architecture, rules)
        texts.append(text)
        kinds.append("text")
    return Parts(tuple(texts), tuple(images), tuple(kinds))


def images_of(data: Any, architecture: str) -> tuple[ImageSource, ...]:
    """The images of a prompt's multi_modal_data, which may be one or a list; raises ValidationError for other media."""
    if not isinstance(data, Mapping):
        raise ValidationError(f"multi_modal_data must be a dict of media by kind, got {type(data).__name__}")
    wrong = sorted(str(kind) for kind, value in data.items() if kind != "image" and value is not None)
    if wrong:
        raise ValidationError(f"{architecture} takes images, no {', '.join(wrong)}", "multi_modal_data")
    given = data.get("image")
    return tuple(
        ImageSource(image) for image in (given if isinstance(given, list | tuple) else [given]) if given is not None
    )


def _kind(part: Any) -> str | None:
    if isinstance(part, str):
        return "text"
    if not isinstance(part, Mapping):
        return None
    kind = part.get("type")
    if kind is None:
        kind = next((name for name in _SHORT_FORMS if name in part), "text" if "text" in part else None)
    return kind if isinstance(kind, str) else None


def _text(part: Any, kind: str | None) -> str | None:
    key = "text" if kind in TEXT_KINDS else "refusal" if kind == "refusal" else None
    text = part.get(key) if key is not None else None
    return text if isinstance(text, str) else None


def _image_value(part: Mapping[str, Any], kind: str) -> Any:
    for key in _IMAGE_KEYS[kind]:
        value = part.get(key)
        value = value.get("url") if isinstance(value, Mapping) else value
        if value is not None:
            return value
    raise ValidationError(f"a part of type {kind!r} needs {' or '.join(map(repr, _IMAGE_KEYS[kind]))}", "image_url")


def _refusal(part: Any, kind: str | None, architecture: str, rules: ImageRules | None) -> ValidationError:
    if kind in TEXT_KINDS:
        return ValidationError(f"a text part needs `text` (str), got {_shown(part)}")
    if kind is None:
        return ValidationError(f"a content part must be a str or {{'type': 'text', 'text': str}}, got {_shown(part)}")
    if rules is None:
        return ValidationError(f"MultiModalParam is not supported for {architecture}")
    return ValidationError(f"{architecture} takes texts and images (image_url), no part of type {kind!r}")


def _shown(part: Any) -> str:
    text = repr(part)
    return text if len(text) <= 100 else f"{text[:100]}..."


def message_parts(parts: Parts) -> Iterator[dict[str, str]]:
    """The parts as a chat template reads them: an image is {"type": "image"}, which it has its own mark for."""
    texts = iter(parts.texts)
    for kind in parts.kinds:
        yield {"type": "image"} if kind == "image" else {"type": "text", "text": next(texts)}
