"""From a checkpoint to a `VisionLanguageModel`: the decoder by its own loader, and the tower beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from assay.errors import ConfigError, UnsupportedModelError
from assay.layers import LayerNorm, Linear, RmsNorm, float32, in_dtype, tensors_of
from assay.models.decoder_loader import DecoderLoader, load_layers
from assay.models.vision_language import VisionLanguageModel
from assay.models.vision_tower import Merger, VisionTower

if TYPE_CHECKING:
    from assay.models.vision_language import VisionLanguageShape
    from assay.models.vision_shape import MergerNames, VisionNames, VisionShape
    from assay.weights import WeightMap


@dataclass(frozen=True, slots=True)
class VisionLanguageLoader:
    """Takes the decoder's tensors as its own loader does, and the tower's by `vision`, wherever they lie."""

    text: DecoderLoader
    vision: VisionNames
    vision_prefixes: tuple[str, ...] = ("model.visual.", "visual.")

    @property
    def word_table(self) -> str:
        return self.text.word_table

    def tensor_names(self, shape: VisionLanguageShape) -> list[str]:
        """Every tensor of the decoder, without its prefix."""
        return self.text.tensor_names(shape.text)

    def tower_tensors(self, weights: WeightMap, shape: VisionLanguageShape) -> list[str]:
        """Every tensor of the tower, with its prefix in this checkpoint."""
        prefix = self._prefix(weights)
        return [prefix + name for name in self.vision.tensors(shape.vision)]

    def transposed_tensors(self, shape: VisionLanguageShape) -> list[str]:
        """None is."""
        return self.text.transposed_tensors(shape.text)

    def load(
        self,
        weights: WeightMap,
        prefix: str,
        shape: VisionLanguageShape,
        arithmetic: str,
        *,
        max_model_len: int,
        reads_one_token: bool,
    ) -> VisionLanguageModel:
        """Take every tensor; raises UnsupportedModelError for a device other than the CPU."""
        if weights.device.is_cuda:
            raise UnsupportedModelError("vision-language models run on the CPU only: use device='cpu'")
        import torch

        text = self.text.load(
            weights, prefix, shape.text, arithmetic, max_model_len=max_model_len, reads_one_token=reads_one_token
        )
        tower = self._tower(weights, self._prefix(weights), shape.vision, arithmetic)
        return VisionLanguageModel(shape, text, tower, torch.tensor(shape.parts))

    def _prefix(self, weights: WeightMap) -> str:
        return weights.prefix(self.vision_prefixes, f"{self.vision.patch}.weight")

    def _tower(self, weights: WeightMap, prefix: str, shape: VisionShape, arithmetic: str) -> VisionTower:
        names, width = self.vision, shape.blocks.hidden_size
        name = prefix + names.patch

        def patch() -> Linear:
            weight = weights.take(f"{name}.weight").flatten(1)
            if weight.shape != (width, shape.patch_features):
                raise ConfigError(
                    f"{weights.source}: {name}.weight makes {weight.shape[0]} of {weight.shape[1]} numbers of a patch, "
                    f"config.json has {width} and {shape.patch_features}"
                )
            bias = float32(weights.take(f"{name}.bias", (width,))) if shape.has_patch_bias else None
            return Linear.pack(in_dtype(weight, arithmetic), bias, arithmetic, weights.device)

        position = None
        if names.position is not None:
            position = float32(weights.take(f"{prefix}{names.position}.weight", (shape.position_side**2, width)))
        deepstack: tuple[Merger, ...] = ()
        if names.deepstack is not None:
            deepstack = tuple(
                _merger(weights, prefix, names.deepstack.of(idx), shape, arithmetic, norms_token=True)
                for idx in range(len(shape.deepstack))
            )
        return VisionTower(
            shape=shape,
            patch=weights.part(tensors_of(name, has_bias=shape.has_patch_bias), patch),
            layers=load_layers(names.layer, weights, prefix, shape.blocks, arithmetic),
            merger=_merger(weights, prefix, names.merger, shape, arithmetic),
            position=position,
            deepstack=deepstack,
            device=weights.device,
        )


def _merger(
    weights: WeightMap,
    prefix: str,
    names: MergerNames,
    shape: VisionShape,
    arithmetic: str,
    *,
    norms_token: bool = False,
) -> Merger:
    blocks, width = shape.blocks, shape.merged_size
    size = width if norms_token else blocks.hidden_size
    name = prefix + names.norm
    norm: LayerNorm | RmsNorm
    if blocks.norm == "rms":
        norm = RmsNorm.load(weights, name, size, blocks.epsilon)
    else:
        norm = LayerNorm.load(weights, name, size, blocks.epsilon, has_bias=blocks.has_norm_bias)
    return Merger(
        norm=norm,
        up=Linear.load(weights, prefix + names.up, (width, width), arithmetic),
        down=Linear.load(weights, prefix + names.down, (shape.out_size, width), arithmetic),
        norms_token=norms_token,
    )
