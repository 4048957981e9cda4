"""Qwen2-VL: Qwen2 with rotary positions of three parts, and a tower of LayerNorm blocks that see the whole image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from assay.models import llama, qwen2
from assay.models.decoder_loader import DecoderLoader
from assay.models.decoder_shape import LayerNames
from assay.models.family import SEQUENCE, Family, last_token, refuse_keys
from assay.models.nested_config import VISION, lifted, part_of
from assay.models.vision_config import blocks_shape, read_shape, tower_shape
from assay.models.vision_loader import VisionLanguageLoader
from assay.models.vision_shape import MergerNames, VisionNames

if TYPE_CHECKING:
    from assay.hf_config import HFConfig
    from assay.models.vision_language import VisionLanguageShape
    from assay.models.vision_shape import VisionShape

TEXT_THETA: Final = 1e6
"""What transformers takes where config.json does not say; so with the sections."""
SECTIONS: Final = (16, 24, 24)

VISION_LAYER = LayerNames(
    qkv=("blocks.{}.attn.qkv",),
    attn_out="blocks.{}.attn.proj",
    mlp_up=("blocks.{}.mlp.fc1",),
    mlp_down="blocks.{}.mlp.fc2",
    attn_in_norm="blocks.{}.norm1",
    mlp_in_norm="blocks.{}.norm2",
)
VISION_NAMES = VisionNames(
    patch="patch_embed.proj", layer=VISION_LAYER, merger=MergerNames("merger.ln_q", "merger.mlp.0", "merger.mlp.2")
)
SCORE_HEADS = {SEQUENCE: llama.SCORE_HEADS[SEQUENCE]}
GENERATIVE = ("ForConditionalGeneration",)


def vision_shape(config: HFConfig) -> VisionShape:
    """Read vision_config; `hidden_size` there is that of the language model."""
    vision = part_of(config, VISION)
    refuse_keys(vision)
    width = vision.require("embed_dim")
    inner = int(width * vision.get("mlp_ratio", 4))
    blocks = blocks_shape(vision, width, inner, norm="layer", is_gated=False, activation="quick_gelu")
    return tower_shape(vision, blocks, vision.require("hidden_size"), 14)


def shape(config: HFConfig) -> VisionLanguageShape:
    """The sizes of both models."""
    return read_shape(config, qwen2.shape, vision_shape, theta=TEXT_THETA, sections=SECTIONS, is_interleaved=False)


FAMILY = Family(
    name="Qwen2-VL",
    class_names=("Qwen2VL",),
    model_types=("qwen2_vl",),
    prefixes=("model.language_model.", "language_model.model.", "model."),
    shape=shape,
    backbone=VisionLanguageLoader(DecoderLoader(llama.LLAMA_NAMES), VISION_NAMES),
    heads=SCORE_HEADS,
    prepare=lifted,
    pooling=last_token,
    pretraining=GENERATIVE,
    lm_head="lm_head",
    other_heads=(r"score\..*",),
    ignored=(llama.LM_HEAD,),
)
