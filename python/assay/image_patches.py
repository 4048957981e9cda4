"""An image as a model reads it: resized pixels, and how many patches and tokens they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]
    Patches = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class PixelGrid:
    """pixels [height, width, 3] uint8, a whole number of patches each way.

    grid: frames, rows and columns of patches. merge_size: patches of a token, each way. digest: equal for images that
    give the same features. normalised: makes the patches of the pixels, which take eight times the memory.
    """

    pixels: Pixels
    grid: tuple[int, int, int]
    merge_size: int
    digest: bytes
    normalised: Callable[[Pixels], Patches]

    @property
    def num_patches(self) -> int:
        frames, rows, columns = self.grid
        return frames * rows * columns

    @property
    def num_tokens(self) -> int:
        """How many tokens of the language model it becomes."""
        return self.num_patches // self.merge_size**2

    def patches(self) -> Patches:
        """[num_patches, channels * temporal_patch_size * patch_size * patch_size] float32."""
        return self.normalised(self.pixels)


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """An image, and the first of its tokens in a sequence or a batch."""

    start: int
    image: PixelGrid
