"""Gemma 2: norms before and after attention and MLP, soft-capped scores, every second layer slides."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from assay.models import gemma, llama
from assay.models.decoder_loader import DecoderLoader
from assay.models.decoder_shape import FULL, SLIDING, layer_types, sliding_windows
from assay.models.family import refuse_keys

if TYPE_CHECKING:
    from assay.hf_config import HFConfig
    from assay.models.decoder_shape import DecoderShape

FOUR_NORM_LAYER = dataclasses.replace(
    llama.LLAMA_LAYER,
    attn_out_norm="layers.{}.post_attention_layernorm",
    mlp_in_norm="layers.{}.pre_feedforward_layernorm",
    mlp_out_norm="layers.{}.post_feedforward_layernorm",
)
QUERY_SCALAR = 256
SLIDING_WINDOW = 4096
SOFT_CAP = 50.0
"""What transformers takes where config.json does not say."""


def shape(config: HFConfig) -> DecoderShape:
    """Gemma's keys, query_pre_attn_scalar, attn_logit_softcapping, sliding_window and layer_types."""
    refuse_keys(config, "use_bidirectional_attention")
    plain = gemma.gemma_shape(config)
    kinds = layer_types(
        config, plain.num_layers, tuple(FULL if idx % 2 else SLIDING for idx in range(plain.num_layers))
    )
    return dataclasses.replace(
        plain,
        layer_types=kinds,
        ropes={kind: plain.ropes[FULL] for kind in (FULL, SLIDING)},
        windows=sliding_windows(config.get("sliding_window", SLIDING_WINDOW), kinds, plain.is_causal),
        softmax_scales=(config.get("query_pre_attn_scalar", QUERY_SCALAR) ** -0.5,) * plain.num_layers,
        soft_cap=float(config.get("attn_logit_softcapping", SOFT_CAP) or 0.0),
    )


FAMILY = dataclasses.replace(
    gemma.FAMILY,
    name="Gemma 2",
    class_names=("Gemma2",),
    model_types=("gemma2",),
    shape=shape,
    backbone=DecoderLoader(dataclasses.replace(llama.LLAMA_NAMES, layer=FOUR_NORM_LAYER)),
)
