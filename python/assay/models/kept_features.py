"""Features of images that went through a tower before, so that an image scored with many texts goes through it once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from assay.models.vision_tower import ImageFeatures

FEATURE_BYTES: Final = 256 * 2**20
"""Kept by default."""


class KeptFeatures:
    """Least recently used features of images in at most max_bytes. Thread safe."""

    def __init__(self, max_bytes: int = FEATURE_BYTES) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, ImageFeatures] = OrderedDict()

    def get(self, digest: bytes) -> ImageFeatures | None:
        """Of an image seen before, or None."""
        with self._lock:
            if digest in self._entries:
                self._entries.move_to_end(digest)
            return self._entries.get(digest)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._entries.clear()
            self.num_bytes = 0

    def put(self, digest: bytes, features: ImageFeatures) -> None:
        """Keep them, in place of those not asked for longest."""
        with self._lock:
            if features.num_bytes > self.max_bytes or digest in self._entries:
                return
            self._entries[digest] = features
            self.num_bytes += features.num_bytes
            while self.num_bytes > self.max_bytes:
                _, gone = self._entries.popitem(last=False)
                self.num_bytes -= gone.num_bytes
