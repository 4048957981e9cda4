"""Features of images that went through a tower before, so that an image scored with many texts goes through it once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from assay.bounded_cache import BoundedCache

if TYPE_CHECKING:
    from assay.models.vision_tower import ImageFeatures

FEATURE_BYTES: Final = 256 * 2**20
"""Kept by default."""


class KeptFeatures:
    """Least recently used features, by digest of the image, in at most max_bytes. Thread safe."""

    def __init__(self, max_bytes: int = FEATURE_BYTES) -> None:
        self._kept: BoundedCache[bytes, ImageFeatures] = BoundedCache(max_bytes)

    @property
    def max_bytes(self) -> int:
        return self._kept.max_bytes

    @property
    def num_bytes(self) -> int:
        return self._kept.num_bytes

    def get(self, digest: bytes) -> ImageFeatures | None:
        """Of an image seen before, or None."""
        return self._kept.get(digest)

    def put(self, digest: bytes, features: ImageFeatures) -> None:
        """Keep them, in place of those not asked for longest."""
        self._kept.put(digest, features, features.num_bytes)

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
