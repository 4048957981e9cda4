"""Image tokens in ids: one stands where an image belongs, until it is known how many the image takes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assay.errors import ValidationError
from assay.image_patches import PlacedImage
from assay.media import Illustrated

if TYPE_CHECKING:
    from assay.batch import Sequence
    from assay.image_patches import PixelGrid


@dataclass(frozen=True, slots=True)
class ImageMark:
    """token_id: stands in a prompt's ids for an image, and afterwards for every token of one.

    frame: the tokens before and behind it; None where there is no tokenizer to write them.
    """

    token_id: int
    frame: tuple[int, int] | None = None

    def is_whole(self, ids: list[int], place: int) -> bool:
        """Whether the image token at `place` stands in its frame."""
        around = tuple(ids[at] if 0 <= at < len(ids) else None for at in (place - 1, place + 1))
        return self.frame is None or around == self.frame


def added_tokens(prompt: object, grids: list[PixelGrid]) -> int:
    """Tokens of a prompt beside those of its text, in which each image has one already."""
    suffix_ids = prompt.suffix_ids if isinstance(prompt, Illustrated) else ()
    return sum(grid.num_tokens - 1 for grid in grids) + len(suffix_ids)


def with_images(sequence: Sequence, prompt: Illustrated, grids: list[PixelGrid], mark: ImageMark | None) -> Sequence:
    """The sequence with all tokens of the prompt's images, and its suffix behind it.

    Raises ValidationError where it does not have one image token, in its frame, for each.
    """
    ids: list[int] = []
    placed: list[PlacedImage] = []
    start = 0
    if grids:
        assert mark is not None
        for place, grid in zip(_places(sequence, mark, len(grids)), grids, strict=True):
            ids += sequence.input_ids[start:place]
            placed.append(PlacedImage(len(ids), grid))
            ids += [mark.token_id] * grid.num_tokens
            start = place + 1
    known, types = sequence.num_original, sequence.token_type_ids
    return dataclasses.replace(
        sequence,
        input_ids=[*ids, *sequence.input_ids[start:], *prompt.suffix_ids],
        token_type_ids=types and types + types[-1:] * len(prompt.suffix_ids),
        images=tuple(placed),
        num_original=None if known is None else known + added_tokens(prompt, grids),
    )


def _places(sequence: Sequence, mark: ImageMark, num_images: int) -> list[int]:
    ids = sequence.input_ids
    places = [place for place, token_id in enumerate(ids) if token_id == mark.token_id]
    if len(places) != num_images:
        where = " after it was cut" if sequence.is_truncated else ""
        raise ValidationError(
            f"the prompt has {len(places)} image tokens for {num_images} images{where}: each image needs one",
            parameter="image_url",
        )
    if sequence.is_truncated and not all(mark.is_whole(ids, place) for place in places):
        raise ValidationError(
            "truncation would cut through the placeholder of an image", parameter="truncate_prompt_tokens"
        )
    return places
