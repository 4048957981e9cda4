"""ModernBERT: LayerNorm before attention and MLP, rotary positions, local and global layers, a head with a norm."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from assay.errors import UnsupportedModelError
from assay.models.bert import PRETRAINING
from assay.models.decoder_loader import DecoderLoader
from assay.models.decoder_shape import (
    FULL,
    SLIDING,
    DecoderNames,
    DecoderShape,
    LayerNames,
    every_nth,
    layer_types,
    sliding_windows,
)
from assay.models.family import (
    SEQUENCE,
    TOKEN,
    Family,
    HeadShape,
    checked_heads,
    first_token,
    hidden_activation,
    refuse_keys,
)
from assay.models.rope import Rope, make_rope, stated_by_kind

if TYPE_CHECKING:
    from assay.hf_config import HFConfig

THETA = {FULL: ("global_rope_theta", 160_000.0), SLIDING: ("local_rope_theta", 10_000.0)}
"""The key and default of each kind of layer's rotary base in older files."""
EPSILON = 1e-5
POOLING = ("cls", "mean")


def shape(config: HFConfig) -> DecoderShape:
    """ModernBERT's own keys."""
    refuse_keys(config)
    hidden_size, num_layers = config.require("hidden_size"), config.require("num_hidden_layers")
    num_heads = checked_heads(config.require("num_attention_heads"), hidden_size)
    head_dim, max_positions = hidden_size // num_heads, config.get("max_position_embeddings", 8192)
    period = every_nth(config, "global_attn_every_n_layers", 3)
    kinds = layer_types(config, num_layers, tuple(SLIDING if idx % period else FULL for idx in range(num_layers)))
    attention, mlp = bool(config.get("attention_bias", False)), bool(config.get("mlp_bias", False))
    return DecoderShape(
        vocab_size=config.require("vocab_size"),
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        intermediate_size=config.require("intermediate_size"),
        max_positions=max_positions,
        activation=hidden_activation(config.get("hidden_activation", "gelu")),
        is_gated=True,
        norm="layer",
        epsilon=float(config.get("norm_eps", EPSILON)),
        layer_types=kinds,
        softmax_scales=(head_dim**-0.5,) * num_layers,
        ropes={kind: _rope(config, kind, head_dim, max_positions) for kind in sorted(set(kinds))},
        windows=sliding_windows(_window(config), kinds, is_causal=False),
        is_causal=False,
        has_qkv_bias=attention,
        has_attn_out_bias=attention,
        has_mlp_up_bias=mlp,
        has_mlp_down_bias=mlp,
        has_norm_bias=bool(config.get("norm_bias", False)),
        has_first_norm=False,
    )


def _window(config: HFConfig) -> int:
    """Tokens a local layer sees on either side: half of local_attention, but sliding_window has the last word."""
    stated = config.get("sliding_window")
    return int(config.get("local_attention", 128) // 2 if stated is None else stated)


def _rope(config: HFConfig, kind: str, head_dim: int, max_positions: int) -> Rope:
    stated = stated_by_kind(config, (FULL, SLIDING), scaled=(FULL, SLIDING))[kind]
    key, default = THETA[kind]
    theta = config.get(key)
    if theta is None and key in config:  # a null local base means the global one
        theta = config.get(THETA[FULL][0])
    return make_rope(config, stated, default if theta is None else theta, head_dim, max_positions)


def pooling(config: HFConfig) -> str:
    """What classifier_pooling says of a classifier; raises UnsupportedModelError for another value."""
    stated = config.get("classifier_pooling", "cls")
    if stated not in POOLING:
        raise UnsupportedModelError(f"config.json: classifier_pooling={stated!r} is none of {', '.join(POOLING)}")
    return str(stated)


def configure_head(config: HFConfig, head: HeadShape) -> HeadShape:
    """classifier_activation, classifier_bias, norm_bias and norm_eps of the head."""
    return dataclasses.replace(
        head,
        dense_activation=hidden_activation(config.get("classifier_activation", "gelu")),
        dense_has_bias=bool(config.get("classifier_bias", False)),
        norm_has_bias=bool(config.get("norm_bias", False)),
        epsilon=float(config.get("norm_eps", EPSILON)),
    )


HEAD = HeadShape(dense="head.dense", norm="head.norm", classifier="classifier")

FAMILY = Family(
    name="ModernBERT",
    class_names=("ModernBert",),
    model_types=("modernbert",),
    prefixes=("model.",),
    shape=shape,
    backbone=DecoderLoader(
        DecoderNames(
            word="embeddings.tok_embeddings",
            embedding_norm="embeddings.norm",
            final_norm="final_norm",
            layer=LayerNames(
                qkv=("layers.{}.attn.Wqkv",),
                attn_out="layers.{}.attn.Wo",
                mlp_up=("layers.{}.mlp.Wi",),
                mlp_down="layers.{}.mlp.Wo",
                attn_in_norm="layers.{}.attn_norm",
                mlp_in_norm="layers.{}.mlp_norm",
            ),
        )
    ),
    heads={SEQUENCE: HEAD, TOKEN: dataclasses.replace(HEAD, is_per_token=True)},
    configure_head=configure_head,
    pooling=pooling,
    is_pooling_fixed=True,
    embed_pooling=first_token,
    pretraining=PRETRAINING,
    other_heads=(r"head\..*", r"decoder\..*", r"classifier\..*"),
)
