"""What config.json says of a Qwen vision-language model: the keys its kinds share, and their defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from assay.errors import ConfigError
from assay.models.decoder_shape import FULL, DecoderShape
from assay.models.family import hidden_activation
from assay.models.rope import DEFAULT_THETA, Rope
from assay.models.vision_language import VisionLanguageShape
from assay.models.vision_shape import VisionShape

if TYPE_CHECKING:
    from collections.abc import Callable

    from assay.hf_config import HFConfig

IMAGE_TOKEN_ID: Final = 151655
"""What transformers takes where config.json does not say."""
EPSILON: Final = 1e-6
"""Of every norm of a tower."""


def read_shape(
    config: HFConfig,
    text_shape: Callable[[HFConfig], DecoderShape],
    vision_shape: Callable[[HFConfig], VisionShape],
    *,
    theta: float,
    sections: tuple[int, ...],
    is_interleaved: bool,
) -> VisionLanguageShape:
    """The sizes of both models, of a lifted config. theta, sections: what transformers takes where none are stated."""
    return VisionLanguageShape(
        text=text_shape(text_config(config, theta)),
        vision=vision_shape(config),
        sections=mrope_sections(config, sections),
        is_interleaved=is_interleaved,
        image_token_id=config.get("image_token_id", IMAGE_TOKEN_ID),
    )


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


def tower_shape(config: HFConfig, blocks: DecoderShape, out_size: int, patch_size: int) -> VisionShape:
    """A tower over those blocks, of the keys every tower here has."""
    patch = single_size(config, "patch_size", patch_size)
    channels = config.get("in_channels", config.get("in_chans", 3))
    frames = single_size(config, "temporal_patch_size", 2)
    rope = config.get("rope_parameters") or {}
    return VisionShape(
        blocks=blocks,
        patch_features=channels * frames * patch**2,
        patch_size=patch,
        merge_size=single_size(config, "spatial_merge_size", 2),
        out_size=out_size,
        rope_theta=float(rope.get("rope_theta", DEFAULT_THETA)),
        has_patch_bias=False,
    )


def single_size(config: HFConfig, name: str, default: int) -> int:
    """A size that may be stated once, or once for each way; raises ConfigError where the ways differ."""
    value = config.get(name, default)
    sizes = set(value) if isinstance(value, list | tuple) else {value}
    size = next(iter(sizes), None)
    if len(sizes) != 1 or not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ConfigError(f"config.json: vision_config: {name} must be one positive integer, got {value!r}")
    return size


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


def layer_numbers(config: HFConfig, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """A list of layers by number; raises ConfigError where it is none."""
    stated: Any = config.get(name, default)
    if not isinstance(stated, list | tuple) or not all(type(idx) is int and idx >= 0 for idx in stated):
        raise ConfigError(f"config.json: vision_config: {name} must be a list of layer numbers, got {stated!r}")
    return tuple(stated)
