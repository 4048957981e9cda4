"""A language model that reads images: a tower makes tokens of them, and a decoder takes those for word embeddings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from assay.errors import ConfigError, UnsupportedModelError
from assay.models.kept_features import KeptFeatures
from assay.models.section_rope import part_of_pair, section_angles, section_positions

if TYPE_CHECKING:
    from torch import Tensor

    from assay.arena import Arena
    from assay.batch import RaggedBatch
    from assay.image_patches import PixelGrid
    from assay.layers import TransformerLayer
    from assay.models.decoder import Decoder
    from assay.models.decoder_shape import DecoderShape
    from assay.models.vision_shape import VisionShape
    from assay.models.vision_tower import ImageFeatures, VisionTower


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
