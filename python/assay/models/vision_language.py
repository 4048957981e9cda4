"""A language model that reads images: a tower makes tokens of them, and a decoder takes those for word embeddings."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from assay.errors import ConfigError, UnsupportedModelError
from assay.layers import LayerNorm, Linear, RmsNorm, float32, in_dtype, tensors_of
from assay.models.decoder_loader import DecoderLoader, load_layers
from assay.models.section_rope import part_of_pair, section_angles, section_positions
from assay.models.vision_tower import Merger, VisionTower

if TYPE_CHECKING:
    from torch import Tensor

    from assay.arena import Arena
    from assay.batch import RaggedBatch
    from assay.image_patches import PixelGrid
    from assay.layers import TransformerLayer
    from assay.models.decoder import Decoder
    from assay.models.decoder_shape import DecoderShape
    from assay.models.vision_shape import MergerNames, VisionNames, VisionShape
    from assay.models.vision_tower import ImageFeatures
    from assay.weights import WeightMap

FEATURE_BYTES: Final = 256 * 2**20
"""Of image features kept, so that an image scored with many texts goes through the tower once."""


@dataclass(frozen=True, slots=True)
class VisionLanguageShape:
    """text: the decoder's sizes. sections, is_interleaved: how its rotary pairs are shared out (`part_of_pair`).

    image_token_id: what stands in the ids for every token of an image.
    """

    text: DecoderShape
    vision: VisionShape
    sections: tuple[int, ...]
    is_interleaved: bool
    image_token_id: int

    def __post_init__(self) -> None:
        if self.vision.out_size != self.text.hidden_size:
            raise ConfigError(
                f"config.json: the vision tower gives tokens of {self.vision.out_size}, the language model reads "
                f"{self.text.hidden_size}"
            )
        if len(self.vision.deepstack) >= self.text.num_layers:
            raise UnsupportedModelError(
                f"config.json: deepstack_visual_indexes names {len(self.vision.deepstack)} layers, the language model "
                f"has {self.text.num_layers} and needs more"
            )
        if not isinstance(self.image_token_id, int) or not 0 <= self.image_token_id < self.text.vocab_size:
            raise ConfigError(
                f"config.json: image_token_id must be below the vocabulary's {self.text.vocab_size}, got "
                f"{self.image_token_id!r}"
            )
        part_of_pair(self.sections, self.text.head_dim // 2, is_interleaved=self.is_interleaved)

    @property
    def parts(self) -> tuple[int, ...]:
        """Which of the three positions turns each rotary pair."""
        return part_of_pair(self.sections, self.text.head_dim // 2, is_interleaved=self.is_interleaved)

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

    @property
    def hidden_size(self) -> int:
        return self.text.hidden_size

    @property
    def num_layers(self) -> int:
        return self.text.num_layers

    @property
    def type_vocab_size(self) -> int:
        return self.text.type_vocab_size

    @property
    def position_offset(self) -> int:
        return self.text.position_offset

    @property
    def max_positions(self) -> int:
        return self.text.max_positions

    @property
    def max_model_len(self) -> int:
        return self.text.max_model_len

    @property
    def has_position_table(self) -> bool:
        return self.text.has_position_table

    @property
    def is_causal(self) -> bool:
        return self.text.is_causal


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


@dataclass(frozen=True, slots=True)
class VisionLanguageModel:
    """text: the decoder, which batches without images run on alone. parts int64 [num_pairs]: see `part_of_pair`."""

    shape: VisionLanguageShape
    text: Decoder
    tower: VisionTower
    parts: Tensor
    features: KeptFeatures = field(default_factory=KeptFeatures)

    @property
    def layers(self) -> tuple[TransformerLayer, ...]:
        """Of both models: whoever sizes the threads' scratch memory asks all of them."""
        return (*self.text.layers, *self.tower.layers)

    def arena_size(self, num_tokens: int, num_seqs: int) -> int:
        """Bytes of arena one call needs; an image's way through the tower takes memory of its own."""
        return self.text.arena_size(num_tokens, num_seqs)

    def positioned(self, batch: RaggedBatch) -> RaggedBatch:
        """With the three positions of every token where there are images."""
        if not batch.images:
            return self.text.positioned(batch)
        return dataclasses.replace(batch, section_positions=section_positions(batch))

    def __call__(self, batch: RaggedBatch, arena: Arena, rows: Tensor | None = None) -> Tensor:
        """Hidden states [num_tokens, hidden_size], or with rows [num_seqs] only those, [num_seqs, hidden_size]."""
        if not batch.images:
            return self.text(batch, arena, rows)
        import torch

        assert batch.section_positions is not None and self.text.ropes[0] is not None
        rope = section_angles(self.text.ropes[0], batch.section_positions, self.parts)
        batch = dataclasses.replace(batch, position_ids=torch.arange(batch.num_tokens, dtype=torch.int32))
        features = [self._features(placed.image) for placed in batch.images]
        spans = [slice(placed.start, placed.start + placed.image.num_tokens) for placed in batch.images]
        hidden_states = self.text.embedded(batch, arena)
        for span, of_image in zip(spans, features, strict=True):
            hidden_states[span] = of_image.tokens

        def add_deepstack(idx: int, hidden_states: Tensor) -> None:
            for span, of_image in zip(spans, features, strict=True):
                if idx < len(of_image.deepstack):
                    hidden_states[span] += of_image.deepstack[idx]

        return self.text.run(hidden_states, batch, arena, rows, rope=rope, after_layer=add_deepstack)

    def _features(self, image: PixelGrid) -> ImageFeatures:
        kept = self.features.get(image.digest)
        if kept is None:
            kept = self.tower(image)
            self.features.put(image.digest, kept)
        return kept


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
