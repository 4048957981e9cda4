"""Sizes and tensor names of a vision tower: patches in, tokens of the language model out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from assay.layers import tensors_of
from assay.models.decoder_loader import layer_tensors

if TYPE_CHECKING:
    from assay.models.decoder_shape import DecoderShape, LayerNames


@dataclass(frozen=True, slots=True)
class VisionShape:
    """blocks: the transformer layers, without word table. patch_features: numbers of a patch. merge_size: patches of a
    token, each way. out_size: width of what a token gets. rope_theta: base of the angles of rows and columns.

    window_size: tokens each way that layers outside of `full_layers` see; 0: all layers see the whole image.
    position_side: rows of the square table of learned positions; 0: there is none. deepstack: layers whose output goes
    into the language model's first layers too.
    """

    blocks: DecoderShape
    patch_features: int
    patch_size: int
    merge_size: int
    out_size: int
    rope_theta: float
    has_patch_bias: bool
    window_size: int = 0
    full_layers: tuple[int, ...] = ()
    position_side: int = 0
    deepstack: tuple[int, ...] = ()

    @property
    def merged_size(self) -> int:
        """Width of the patches of a token side by side."""
        return self.blocks.hidden_size * self.merge_size**2


@dataclass(frozen=True, slots=True)
class MergerNames:
    """A norm, then two linear layers over the patches of a token."""

    norm: str
    up: str
    down: str

    def tensors(self, shape: VisionShape) -> list[str]:
        """Every tensor of it."""
        norm = tensors_of(self.norm, has_bias=shape.blocks.has_norm_bias)
        return norm + tensors_of(self.up, has_bias=True) + tensors_of(self.down, has_bias=True)

    def of(self, index: int) -> MergerNames:
        """Of one among several: `{}` is its number."""
        return MergerNames(self.norm.format(index), self.up.format(index), self.down.format(index))


@dataclass(frozen=True, slots=True)
class VisionNames:
    """Tensor names of a tower, without its prefix. deepstack: of each merger beside the last, by its number."""

    patch: str
    layer: LayerNames
    merger: MergerNames
    position: str | None = None
    deepstack: MergerNames | None = None

    def tensors(self, shape: VisionShape) -> list[str]:
        """Every tensor of it."""
        listed = tensors_of(self.patch, has_bias=shape.has_patch_bias) + layer_tensors(self.layer, shape.blocks)
        listed += self.merger.tensors(shape)
        if self.position is not None:
            listed.append(f"{self.position}.weight")
        if self.deepstack is not None:
            listed += [name for idx in range(len(shape.deepstack)) for name in self.deepstack.of(idx).tensors(shape)]
        return listed
