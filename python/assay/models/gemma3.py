"""Gemma 3, text only: Gemma 2 with norms on query and key heads, and rotary tables that differ by kind of layer."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from assay.errors import UnsupportedModelError
from assay.models import gemma, gemma2, llama, qwen3
from assay.models.decoder_loader import DecoderLoader
from assay.models.decoder_shape import FULL, SLIDING, every_nth, layer_types, sees_past_only, sliding_windows
from assay.models.family import SEQUENCE, refuse_keys
from assay.models.rope import Rope, make_rope, stated_by_kind

if TYPE_CHECKING:
    from assay.hf_config import HFConfig
    from assay.models.decoder_shape import DecoderShape

LAYER = dataclasses.replace(
    gemma2.FOUR_NORM_LAYER, q_norm=qwen3.QK_NORM_LAYER.q_norm, k_norm=qwen3.QK_NORM_LAYER.k_norm
)
THETA = {FULL: ("rope_theta", 1_000_000.0), SLIDING: ("rope_local_base_freq", 10_000.0)}
"""The key and default of each kind of layer's rotary base in older files."""
PATTERN = 6
"""Every sixth layer has full attention where config.json does not say otherwise."""


def shape(config: HFConfig) -> DecoderShape:
    """Gemma 2's keys, sliding_window_pattern, use_bidirectional_attention and rotary parameters by kind of layer."""
    if config.get("vision_config") is not None or config.get("text_config") is not None:
        raise UnsupportedModelError("Gemma 3 with images (text_config, vision_config) is not supported; text-only is")
    refuse_keys(config, "attn_logit_softcapping")
    is_bidirectional, is_causal = bool(config.get("use_bidirectional_attention", False)), sees_past_only(config)
    window = config.get("sliding_window", gemma2.SLIDING_WINDOW)
    if is_bidirectional and isinstance(window, int):
        # on either side, so that as many tokens are seen as causally; with is_causal=false transformers sees one more
        window = window // 2 + (not is_causal)
    is_causal = is_causal and not is_bidirectional
    plain = gemma.gemma_shape(_without_rope(config))
    pattern = every_nth(config, "sliding_window_pattern", PATTERN)
    kinds = layer_types(
        config, plain.num_layers, tuple(SLIDING if (idx + 1) % pattern else FULL for idx in range(plain.num_layers))
    )
    return dataclasses.replace(
        plain,
        is_causal=is_causal,
        layer_types=kinds,
        ropes={kind: _rope(config, kind, plain.head_dim, plain.max_positions) for kind in sorted(set(kinds))},
        windows=sliding_windows(window, kinds, is_causal),
        softmax_scales=(config.get("query_pre_attn_scalar", gemma2.QUERY_SCALAR) ** -0.5,) * plain.num_layers,
    )


def _without_rope(config: HFConfig) -> HFConfig:
    """The config without rotary parameters, which are read by kind of layer here."""
    plain = config.copy()
    plain.update({"rope_parameters": None, "rope_scaling": None})
    return plain


def _rope(config: HFConfig, kind: str, head_dim: int, max_positions: int) -> Rope:
    """rope_parameters by kind, or the older rope_scaling, which is for full attention alone."""
    stated = stated_by_kind(config, (FULL, SLIDING), scaled=(FULL,))[kind]
    key, default = THETA[kind]
    theta = config.get(key)
    return make_rope(config, stated, default if theta is None else theta, head_dim, max_positions)


FAMILY = dataclasses.replace(
    gemma.FAMILY,
    name="Gemma 3",
    class_names=("Gemma3Text", "Gemma3"),
    model_types=("gemma3_text",),
    shape=shape,
    backbone=DecoderLoader(dataclasses.replace(llama.LLAMA_NAMES, layer=LAYER)),
    heads={SEQUENCE: llama.SCORE_HEADS[SEQUENCE]},
)
