"""Qwen3-VL: Qwen3 with interleaved positions of three parts; its tower has learned positions too, and some of its
layers speak to the first layers of the language model (DeepStack, arXiv:2406.04334).
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Final

from assay.errors import ConfigError, UnsupportedModelError
from assay.models import llama, qwen2_vl, qwen3
from assay.models.decoder_loader import DecoderLoader
from assay.models.family import refuse_keys
from assay.models.nested_config import VISION, part_of
from assay.models.vision_config import blocks_shape, layer_numbers, read_shape, tower_shape
from assay.models.vision_loader import VisionLanguageLoader
from assay.models.vision_shape import MergerNames, VisionNames

if TYPE_CHECKING:
    from assay.hf_config import HFConfig
    from assay.models.vision_language import VisionLanguageShape
    from assay.models.vision_shape import VisionShape

TEXT_THETA: Final = 5e5
SECTIONS: Final = (24, 20, 20)
DEEPSTACK: Final = (8, 16, 24)
"""What transformers takes where config.json does not say."""

VISION_NAMES = VisionNames(
    patch="patch_embed.proj",
    layer=dataclasses.replace(
        qwen2_vl.VISION_LAYER, mlp_up=("blocks.{}.mlp.linear_fc1",), mlp_down="blocks.{}.mlp.linear_fc2"
    ),
    merger=MergerNames("merger.norm", "merger.linear_fc1", "merger.linear_fc2"),
    position="pos_embed",
    deepstack=MergerNames(
        "deepstack_merger_list.{}.norm", "deepstack_merger_list.{}.linear_fc1", "deepstack_merger_list.{}.linear_fc2"
    ),
)


def vision_shape(config: HFConfig) -> VisionShape:
    """Read vision_config; raises ConfigError where the table of positions is no square."""
    vision = part_of(config, VISION)
    refuse_keys(vision)
    width, inner = vision.require("hidden_size"), vision.require("intermediate_size")
    blocks = blocks_shape(vision, width, inner, norm="layer", is_gated=False, activation="gelu_pytorch_tanh")
    count = vision.require("num_position_embeddings")
    side = math.isqrt(count)
    if side**2 != count:
        raise ConfigError(f"config.json: vision_config: num_position_embeddings must be a square, got {count}")
    shape = tower_shape(vision, blocks, vision.require("out_hidden_size"), 16)
    deepstack = layer_numbers(vision, "deepstack_visual_indexes", DEEPSTACK)
    if list(deepstack) != sorted(set(deepstack)) or any(idx >= blocks.num_layers for idx in deepstack):
        raise UnsupportedModelError(
            f"config.json: vision_config: deepstack_visual_indexes must name some of {blocks.num_layers} layers in "
            f"order, got {list(deepstack)}"
        )
    return dataclasses.replace(shape, has_patch_bias=True, position_side=side, deepstack=deepstack)


def shape(config: HFConfig) -> VisionLanguageShape:
    """The sizes of both models."""
    return read_shape(config, qwen3.shape, vision_shape, theta=TEXT_THETA, sections=SECTIONS, is_interleaved=True)


FAMILY = dataclasses.replace(
    qwen2_vl.FAMILY,
    name="Qwen3-VL",
    class_names=("Qwen3VL",),
    model_types=("qwen3_vl",),
    shape=shape,
    backbone=VisionLanguageLoader(
        DecoderLoader(dataclasses.replace(llama.LLAMA_NAMES, layer=qwen3.QK_NORM_LAYER)), VISION_NAMES
    ),
)
