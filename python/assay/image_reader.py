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
    from assay.image_tokens import ImageMark
    from assay.images import MediaAccess
    from assay.media import ImageSource
    from assay.pixels import ImageProcessor

NUM_THREADS: Final = 8
"""Images read side by side: most of the time is spent waiting for them."""


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(NUM_THREADS, "assay-read-image")


@dataclass(frozen=True, slots=True)
class ImageReader:
    """mark: the tokens that stand for an image. access: where images may come from."""

    mark: ImageMark
    processor: ImageProcessor
    access: MediaAccess
    _pool: ThreadPoolExecutor = field(default_factory=_threads, repr=False, compare=False)

    def __call__(self, source: Any) -> PixelGrid:
        """The pixels of a URL or of an image in memory; raises ValidationError."""
        return self.processor(open_image(source, self.access))

    def read_all(self, sources: list[ImageSource]) -> list[PixelGrid]:
        """Read them side by side; what is refused is left out here, and says so when it is asked for."""
        distinct = list(dict.fromkeys(sources))
        if len(distinct) < 2:  # whoever asks for it reads it
            return []
        grids = []
        for future in [self._pool.submit(source.grid, self) for source in distinct]:
            with contextlib.suppress(ValidationError):
                grids.append(future.result())
        return grids
