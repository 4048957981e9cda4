"""How one model reads images: where from, and to what size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.images import open_image

if TYPE_CHECKING:
    from assay.image_patches import PixelGrid
    from assay.images import MediaAccess
    from assay.pixels import ImageProcessor


@dataclass(frozen=True, slots=True)
class ImageReader:
    """token_id: what stands in a prompt for an image, and in its ids for every token of one."""

    token_id: int
    processor: ImageProcessor
    access: MediaAccess

    def __call__(self, source: Any) -> PixelGrid:
        """The pixels of a URL or of an image in memory; raises ValidationError."""
        return self.processor(open_image(source, self.access))
