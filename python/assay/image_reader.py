"""How one model reads images: where from, and to what size."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from assay.errors import ValidationError
from assay.images import open_image

if TYPE_CHECKING:
    from assay.image_patches import PixelGrid
    from assay.images import MediaAccess
    from assay.media import ImageSource
    from assay.pixels import ImageProcessor

NUM_THREADS: Final = 8
"""Images read side by side: most of the time is spent waiting for them."""


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(NUM_THREADS, "assay-read-image")


@dataclass(frozen=True, slots=True)
class ImageReader:
    """token_id: what stands in a prompt for an image, and in its ids for every token of one.

    frame: the tokens before and behind it; none where there is no tokenizer.
    """

    token_id: int
    processor: ImageProcessor
    access: MediaAccess
    frame: tuple[int, int] | None = None
    _pool: ThreadPoolExecutor = field(default_factory=_threads, repr=False, compare=False)

    def __call__(self, source: Any) -> PixelGrid:
        """The pixels of a URL or of an image in memory; raises ValidationError."""
        return self.processor(open_image(source, self.access))

    def read_all(self, sources: list[ImageSource]) -> None:
        """Read them side by side; what is refused says so when it is asked for."""
        unread = [source for source in dict.fromkeys(sources) if not source.is_read]
        if len(unread) > 1:
            for future in [self._pool.submit(source.grid, self) for source in unread]:
                with contextlib.suppress(ValidationError):
                    future.result()

    def is_framed(self, ids: list[int], place: int) -> bool:
        """Whether the image token at `place` stands between the two others of its placeholder."""
        if self.frame is None:
            return True
        around = [ids[at] if 0 <= at < len(ids) else None for at in (place - 1, place + 1)]
        return around == list(self.frame)
