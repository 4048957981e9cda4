"""Qwen2-VL: Qwen2 with rotary positions of three parts, and a tower of LayerNorm blocks that see the whole image."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from assay.errors import ConfigError
from assay.models import llama, qwen2
from assay.models.decoder_loader import DecoderLoader
from assay.models.decoder_shape import FULL, DecoderShape, LayerNames
from assay.models.family import SEQUENCE, Family, hidden_activation, last_token, refuse_keys
from assay.models.nested_config import VISION, lifted, part_of
from assay.models.rope import DEFAULT_THETA, Rope
from assay.models.vision_language import VisionLanguageShape
from assay.models.vision_loader import VisionLanguageLoader
from assay.models.vision_shape import MergerNames, VisionNames, VisionShape

if TYPE_CHECKING:
    from assay.hf_config import HFConfig

IMAGE_TOKEN_ID: Final = 151655
"""What transformers takes where config.json does not say."""
TEXT_THETA: Final = 1e6
EPSILON: Final = 1e-6
"""Of every norm of the tower."""
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


def blocks_shape(
    config: HFConfig, hidden_size: int, intermediate_size: int, *, norm: str, is_gated: bool, activation: str
) -> DecoderShape:
    """The layers of a tower, of what its config and its family say."""
    num_heads, depth = config.require("num_heads"), config.require("depth")
    if num_heads < 1 or hidden_size % num_heads:
        raise ConfigError(f"config.json: vision_config: hidden size {hidden_size} is no multiple of {num_heads} heads")
    head_dim = hidden_size // num_heads
    if head_dim % 4:
        raise ConfigError(f"config.json: vision_config: heads of {head_dim} cannot be turned by rows and columns")
    return DecoderShape(
        vocab_size=0,
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        intermediate_size=intermediate_size,
        max_positions=0,
        activation=hidden_activation(config.get("hidden_act", activation)),
        is_gated=is_gated,
        norm=norm,
        epsilon=EPSILON,
        layer_types=(FULL,) * depth,
        softmax_scales=(head_dim**-0.5,) * depth,
        ropes={FULL: Rope("default", head_dim, 0)},
        is_causal=False,
        has_qkv_bias=True,
        has_attn_out_bias=True,
        has_mlp_up_bias=True,
        has_mlp_down_bias=True,
        has_norm_bias=norm == "layer",
    )


def tower_shape(config: HFConfig, blocks: DecoderShape, out_size: int, patch_size: int, **extra: object) -> VisionShape:
    """A tower over those blocks, of the keys every tower here has; extra: what only some have."""
    patch = single_size(config, "patch_size", patch_size)
    channels, frames = (
        config.get("in_channels", config.get("in_chans", 3)),
        single_size(config, "temporal_patch_size", 2),
    )
    rope = config.get("rope_parameters") or {}
    shape = VisionShape(
        blocks=blocks,
        patch_features=channels * frames * patch**2,
        patch_size=patch,
        merge_size=single_size(config, "spatial_merge_size", 2),
        out_size=out_size,
        rope_theta=float(rope.get("rope_theta", DEFAULT_THETA)),
        has_patch_bias=False,
    )
    return dataclasses.replace(shape, **extra)  # type: ignore[arg-type]


def single_size(config: HFConfig, name: str, default: int) -> int:
    """A size that may be stated once, or once for each way; raises ConfigError where the ways differ."""
    value = config.get(name, default)
    sizes = set(value) if isinstance(value, list | tuple) else {value}
    size = next(iter(sizes), None)
    if len(sizes) != 1 or not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ConfigError(f"config.json: vision_config: {name} must be one positive integer, got {value!r}")
    return size


def vision_shape(config: HFConfig) -> VisionShape:
    """Read vision_config; `hidden_size` there is that of the language model."""
    vision = part_of(config, VISION)
    refuse_keys(vision)
    width = vision.require("embed_dim")
    inner = int(width * vision.get("mlp_ratio", 4))
    blocks = blocks_shape(vision, width, inner, norm="layer", is_gated=False, activation="quick_gelu")
    return tower_shape(vision, blocks, vision.require("hidden_size"), 14)


def mrope_sections(config: HFConfig, default: tuple[int, ...]) -> tuple[int, ...]:
    """How the rotary pairs of a head are shared out; raises ConfigError."""
    stated = config.get("rope_scaling") or config.get("rope_parameters") or {}
    sections = stated.get("mrope_section", default) if isinstance(stated, dict) else stated
    if not isinstance(sections, list | tuple) or not all(type(count) is int and count >= 0 for count in sections):
        raise ConfigError(f"config.json: mrope_section must be a list of counts, got {sections!r}")
    return tuple(sections)


def text_config(config: HFConfig, theta: float) -> HFConfig:
    """The lifted config with the base of the angles that transformers takes where none is stated."""
    stated = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if config.get("rope_theta") is not None or (isinstance(stated, dict) and "rope_theta" in stated):
        return config
    config = config.copy()
    config.update({"rope_theta": theta})
    return config


def shape(config: HFConfig) -> VisionLanguageShape:
    """The sizes of both models."""
    return VisionLanguageShape(
        text=qwen2.shape(text_config(config, TEXT_THETA)),
        vision=vision_shape(config),
        sections=mrope_sections(config, SECTIONS),
        is_interleaved=False,
        image_token_id=config.get("image_token_id", IMAGE_TOKEN_ID),
    )


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
