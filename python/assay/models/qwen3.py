"""Qwen3: Qwen2 with a norm on every query and key head instead of the biases, and a head size of its own."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from assay.models import llama, qwen2
from assay.models.decoder_loader import DecoderLoader

if TYPE_CHECKING:
    from assay.hf_config import HFConfig
    from assay.models.decoder_shape import DecoderShape

QK_NORM_LAYER = dataclasses.replace(
    llama.LLAMA_LAYER, q_norm="layers.{}.self_attn.q_norm", k_norm="layers.{}.self_attn.k_norm"
)
HEAD_DIM = 128
"""What transformers takes where config.json does not say."""


def shape(config: HFConfig) -> DecoderShape:
    """Qwen2's keys, head_dim and attention_bias."""
    if config.get("head_dim") is None:
        config = config.copy()
        config.update({"head_dim": HEAD_DIM})
    has_bias = bool(config.get("attention_bias", False))
    return dataclasses.replace(qwen2.windowed_shape(config), has_qkv_bias=has_bias, has_attn_out_bias=has_bias)


FAMILY = dataclasses.replace(
    llama.FAMILY,
    name="Qwen3",
    class_names=("Qwen3",),
    model_types=("qwen3",),
    shape=shape,
    backbone=DecoderLoader(dataclasses.replace(llama.LLAMA_NAMES, layer=QK_NORM_LAYER)),
)
