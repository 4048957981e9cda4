"""Qwen2.5-VL: Qwen2-VL with a tower of RMSNorm and gated blocks, most of which see a window of the image."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from assay.errors import ConfigError
from assay.models import llama, qwen2, qwen2_vl
from assay.models.decoder_loader import DecoderLoader
from assay.models.family import refuse_keys
from assay.models.nested_config import VISION, part_of
from assay.models.vision_config import blocks_shape, layer_numbers, read_shape, tower_shape
from assay.models.vision_loader import VisionLanguageLoader

if TYPE_CHECKING:
    from assay.hf_config import HFConfig
    from assay.models.vision_language import VisionLanguageShape
    from assay.models.vision_shape import VisionShape

WINDOW: Final = 112
"""Pixels, as transformers takes them where config.json does not say; so with the layers."""
FULL_LAYERS: Final = (7, 15, 23, 31)

VISION_NAMES = dataclasses.replace(
    qwen2_vl.VISION_NAMES,
    layer=dataclasses.replace(
        qwen2_vl.VISION_LAYER,
        mlp_up=("blocks.{}.mlp.gate_proj", "blocks.{}.mlp.up_proj"),
        mlp_down="blocks.{}.mlp.down_proj",
    ),
)


def vision_shape(config: HFConfig) -> VisionShape:
    """Read vision_config; windows are stated in pixels there."""
    vision = part_of(config, VISION)
    refuse_keys(vision)
    width, inner = vision.require("hidden_size"), vision.require("intermediate_size")
    blocks = blocks_shape(vision, width, inner, norm="rms", is_gated=True, activation="silu")
    shape = tower_shape(vision, blocks, vision.require("out_hidden_size"), 14)
    window = vision.get("window_size", WINDOW)
    size = window // shape.merge_size // shape.patch_size
    if size < 1:
        raise ConfigError(
            f"config.json: vision_config: a window of {window} pixels holds no token of {shape.merge_size} patches of "
            f"{shape.patch_size}"
        )
    return dataclasses.replace(
        shape, window_size=size, full_layers=layer_numbers(vision, "fullatt_block_indexes", FULL_LAYERS)
    )


def shape(config: HFConfig) -> VisionLanguageShape:
    """The sizes of both models."""
    return read_shape(
        config,
        qwen2.shape,
        vision_shape,
        theta=qwen2_vl.TEXT_THETA,
        sections=qwen2_vl.SECTIONS,
        is_interleaved=False,
    )


FAMILY = dataclasses.replace(
    qwen2_vl.FAMILY,
    name="Qwen2.5-VL",
    class_names=("Qwen2_5_VL",),
    model_types=("qwen2_5_vl",),
    shape=shape,
    backbone=VisionLanguageLoader(DecoderLoader(llama.LLAMA_NAMES), VISION_NAMES),
)
