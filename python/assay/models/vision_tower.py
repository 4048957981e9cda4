"""The tower that turns an image's patches into what the language model reads in place of word embeddings.

An image goes through it alone, so its features have the same bits in every batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from assay.arena import Arena, aligned
from assay.batch import RaggedBatch
from assay.device import CPU
from assay.models.decoder import FLOAT32_BYTES
from assay.models.packed_products import one_thread
from assay.models.vision_layout import patch_places, resampled, windows

if TYPE_CHECKING:
    from torch import Tensor

    from assay.device import Device
    from assay.image_patches import PixelGrid
    from assay.layers import LayerNorm, Linear, RmsNorm, TransformerLayer
    from assay.models.vision_layout import Grid
    from assay.models.vision_shape import VisionShape


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """tokens [num_tokens, out_size] float32, and as much for each of the first layers of a model with deepstack."""

    tokens: Tensor
    deepstack: tuple[Tensor, ...] = ()

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for part in (self.tokens, *self.deepstack))


@dataclass(frozen=True, slots=True)
class Merger:
    """The patches of a token side by side, through two linear layers with GELU between them.

    norm: over every patch, or (norms_token) over the patches of a token at once.
    """

    norm: LayerNorm | RmsNorm
    up: Linear
    down: Linear
    norms_token: bool = False

    def __call__(self, hidden_states: Tensor) -> Tensor:
        """[num_patches, hidden_size] -> [num_tokens, out_size]."""
        width = self.up.in_features
        rows = hidden_states.view(-1, width) if self.norms_token else hidden_states
        return self.down(self.up(self.norm(rows).view(-1, width), activation="gelu"))


@dataclass(frozen=True, slots=True)
class VisionTower:
    """position: the table of learned positions [side * side, hidden_size] float32. deepstack: by number of the layer
    whose output it takes.
    """

    shape: VisionShape
    patch: Linear
    layers: tuple[TransformerLayer, ...]
    merger: Merger
    position: Tensor | None = None
    deepstack: tuple[Merger, ...] = ()
    device: Device = CPU

    def __call__(self, image: PixelGrid) -> ImageFeatures:
        """The features of an image."""
        import torch

        places = patch_places(image.grid, self.shape.merge_size)
        with one_thread():  # the shares of several threads would end within a vector, and change the last bits
            hidden_states = self.patch(torch.from_numpy(image.patches()))
            if self.position is not None:
                rows, shares = resampled(places, image.grid, self.shape.position_side)
                hidden_states += (self.position[rows] * shares[:, :, None]).sum(dim=1)
            if not self.shape.window_size:
                return self._through_layers(hidden_states, places, image.grid)
            order, sizes = self._windows(image.grid)
            size = self.shape.merge_size**2
            by_patch = (order[:, None] * size + torch.arange(size)).flatten()
            features = self._through_layers(
                hidden_states[by_patch], places[by_patch], image.grid, _frames(sizes * size)
            )
            back = order.argsort()
            return ImageFeatures(features.tokens[back], tuple(part[back] for part in features.deepstack))

    def bytes_for(self, num_tokens: int) -> int:
        """Bytes an image of so many tokens takes on its way: its patches, hidden states and what the layers need."""
        num_patches = num_tokens * self.shape.merge_size**2
        rows = num_patches * (self.shape.patch_features + self.shape.blocks.hidden_size) * FLOAT32_BYTES
        return rows + max(layer.workspace_size(num_patches, 1) for layer in self.layers)

    def _windows(self, grid: Grid) -> tuple[Tensor, Tensor]:
        merge_size = self.shape.merge_size
        return windows((grid[0], grid[1] // merge_size, grid[2] // merge_size), self.shape.window_size)

    def _through_layers(
        self, hidden_states: Tensor, places: Tensor, grid: Grid, windowed: RaggedBatch | None = None
    ) -> ImageFeatures:
        """hidden_states [num_patches, hidden_size] of patches that lie at `places`, sorted by windows if there are."""
        import torch

        shape = self.shape
        whole = _frames(torch.full((grid[0],), grid[1] * grid[2]))
        cos, sin = self._angles(places, max(grid))
        workspace = self._workspace(len(places), whole.num_seqs if windowed is None else windowed.num_seqs)
        deepstack: dict[int, Tensor] = {}
        for idx, layer in enumerate(self.layers):
            seen = whole if windowed is None or idx in shape.full_layers else windowed
            layer(hidden_states, seen, workspace, cos=cos, sin=sin)
            if idx in shape.deepstack:
                deepstack[idx] = self.deepstack[shape.deepstack.index(idx)](hidden_states)
        return ImageFeatures(self.merger(hidden_states), tuple(deepstack[idx] for idx in shape.deepstack))

    def _workspace(self, num_patches: int, num_seqs: int) -> Tensor:
        import torch

        size = max(layer.workspace_size(num_patches, num_seqs) for layer in self.layers)
        return Arena(aligned(size), self.device).take((size,), torch.uint8)

    def _angles(self, places: Tensor, num_positions: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [num_patches, head_dim / 2]: half of the pairs turn by the row, half by the column."""
        import torch

        half = self.shape.blocks.head_dim // 2
        frequencies = 1.0 / (self.shape.rope_theta ** (torch.arange(0, half, 2, dtype=torch.float32) / half))
        table = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
        return table.cos()[places].flatten(1), table.sin()[places].flatten(1)


def _frames(seqlens: Tensor) -> RaggedBatch:
    """What a layer asks of a batch whose tokens are patches; the angles have a row for each of them."""
    import torch
    from torch.nn.functional import pad

    cu_seqlens = pad(seqlens.cumsum(0), (1, 0)).to(torch.int32)
    num_patches = int(cu_seqlens[-1])
    return RaggedBatch(
        input_ids=torch.empty(0, dtype=torch.int32),
        position_ids=torch.arange(num_patches, dtype=torch.int32),
        token_type_ids=None,
        cu_seqlens=cu_seqlens,
        max_seqlen=int(seqlens.max()),
        num_tokens=num_patches,
        num_seqs=len(seqlens),
        known_seqlens=seqlens.tolist(),
    )
