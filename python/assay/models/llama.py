"""Llama: RMSNorm before attention and MLP, grouped key/value heads, rotary positions, a gated MLP."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from assay.models.decoder_loader import DecoderLoader
from assay.models.decoder_shape import FULL, DecoderNames, DecoderShape, LayerNames, sees_past_only
from assay.models.family import SEQUENCE, TOKEN, Family, HeadShape, hidden_activation, last_token, refuse_keys
from assay.models.rope import read_rope

if TYPE_CHECKING:
    from assay.hf_config import HFConfig

LLAMA_LAYER = LayerNames(
    qkv=("layers.{}.self_attn.q_proj", "layers.{}.self_attn.k_proj", "layers.{}.self_attn.v_proj"),
    attn_out="layers.{}.self_attn.o_proj",
    mlp_up=("layers.{}.mlp.gate_proj", "layers.{}.mlp.up_proj"),
    mlp_down="layers.{}.mlp.down_proj",
    attn_in_norm="layers.{}.input_layernorm",
    mlp_in_norm="layers.{}.post_attention_layernorm",
)
LLAMA_NAMES = DecoderNames(word="embed_tokens", layer=LLAMA_LAYER, final_norm="norm")

SCORE_HEADS = {
    SEQUENCE: HeadShape(classifier="score", classifier_has_bias=None),
    TOKEN: HeadShape(classifier="score", is_per_token=True),
}
"""The heads transformers gives every decoder: `score` on the last token (a conversion may have a bias), or on all."""

CAUSAL_LM = ("ForCausalLM",)
LM_HEAD = r"lm_head\.weight"
"""A fine-tuned classifier may still carry the head of the model it was made from."""


def causal_shape(config: HFConfig) -> DecoderShape:
    """Read the keys Llama introduced and most decoders kept; full attention in every layer, no biases."""
    refuse_keys(config)
    hidden_size, num_heads = config.require("hidden_size"), config.require("num_attention_heads")
    head_dim = config.get("head_dim") or hidden_size // num_heads
    num_layers, max_positions = config.require("num_hidden_layers"), config.require("max_position_embeddings")
    return DecoderShape(
        vocab_size=config.require("vocab_size"),
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=config.get("num_key_value_heads") or num_heads,
        head_dim=head_dim,
        intermediate_size=config.require("intermediate_size"),
        max_positions=max_positions,
        activation=hidden_activation(config.get("hidden_act", "silu")),
        is_gated=True,
        norm="rms",
        epsilon=float(config.get("rms_norm_eps", 1e-6)),
        layer_types=(FULL,) * num_layers,
        softmax_scales=(head_dim**-0.5,) * num_layers,
        ropes={FULL: read_rope(config, head_dim, max_positions)},
        is_causal=sees_past_only(config),
    )


def shape(config: HFConfig) -> DecoderShape:
    """Llama's own switches: biases of attention and MLP."""
    attention, mlp = bool(config.get("attention_bias", False)), bool(config.get("mlp_bias", False))
    return dataclasses.replace(
        causal_shape(config),
        has_qkv_bias=attention,
        has_attn_out_bias=attention,
        has_mlp_up_bias=mlp,
        has_mlp_down_bias=mlp,
    )


def configure_head(config: HFConfig, head: HeadShape) -> HeadShape:
    """token_classification_bias: whether `score` on every token has a bias."""
    if head is not SCORE_HEADS[TOKEN]:
        return head
    return dataclasses.replace(head, classifier_has_bias=bool(config.get("token_classification_bias", True)))


FAMILY = Family(
    name="Llama",
    class_names=("Llama",),
    model_types=("llama",),
    prefixes=("model.",),
    shape=shape,
    backbone=DecoderLoader(LLAMA_NAMES),
    heads=SCORE_HEADS,
    configure_head=configure_head,
    pooling=last_token,
    pretraining=CAUSAL_LM,
    lm_head="lm_head",
    other_heads=(r"score\..*",),
    ignored=(LM_HEAD,),
)
