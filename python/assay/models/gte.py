"""GTE (mGTE's own encoder): BERT-like blocks with rotary positions and a gated MLP; one token type for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.errors import UnsupportedModelError
from assay.models.bert import BERT_HEADS, PRETRAINING
from assay.models.decoder_loader import DecoderLoader
from assay.models.decoder_shape import FULL, DecoderNames, DecoderShape, LayerNames
from assay.models.family import Family, checked_heads, hidden_activation, refuse_keys
from assay.models.rope import Rope, read_rope

if TYPE_CHECKING:
    from assay.hf_config import HFConfig

MODEL_TYPE = "new"
"""What the released checkpoints call themselves; their class names say no more than `New`."""


def shape(config: HFConfig) -> DecoderShape:
    """The released configuration's keys; raises UnsupportedModelError for variants that compute something else."""
    refuse_keys(config, "logn_attention_scale", "logn_attention_clip1")
    if config.get("model_type") != MODEL_TYPE:
        raise UnsupportedModelError(f"GTE needs model_type {MODEL_TYPE!r}, got {config.get('model_type')!r}")
    for key, wanted in (("position_embedding_type", "rope"), ("layer_norm_type", "layer_norm"), ("pack_qkv", True)):
        if config.get(key, wanted) != wanted:
            raise UnsupportedModelError(f"config.json: {key}={config.get(key)!r} is not supported; {wanted!r} is")
    hidden_size, num_layers = config.require("hidden_size"), config.require("num_hidden_layers")
    num_heads = checked_heads(config.require("num_attention_heads"), hidden_size)
    head_dim = hidden_size // num_heads
    return DecoderShape(
        vocab_size=config.require("vocab_size"),
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        intermediate_size=config.require("intermediate_size"),
        max_positions=config.require("max_position_embeddings"),
        activation=hidden_activation(config.get("hidden_act", "gelu")),
        is_gated=True,
        norm="layer",
        epsilon=float(config.get("layer_norm_eps", 1e-12)),
        layer_types=(FULL,) * num_layers,
        softmax_scales=(head_dim**-0.5,) * num_layers,
        ropes={FULL: _rope(config, head_dim)},
        is_causal=False,
        has_qkv_bias=True,
        has_attn_out_bias=True,
        has_mlp_down_bias=True,
        has_norm_bias=True,
        type_rows=config.get("type_vocab_size", 0),
    )


def _rope(config: HFConfig, head_dim: int) -> Rope:
    rotary_dim = config.get("rotary_emb_dim") or head_dim
    if rotary_dim > head_dim:
        raise UnsupportedModelError(f"config.json: rotary_emb_dim={rotary_dim} is larger than the head size {head_dim}")
    rope = read_rope(config, rotary_dim, config.require("max_position_embeddings"))
    if rope.kind not in ("default", "ntk"):
        raise UnsupportedModelError(f"config.json: rope_scaling of type {rope.kind!r} is not supported; 'ntk' is")
    return rope


FAMILY = Family(
    name="GTE",
    class_names=("GteNew", "New"),
    model_types=(MODEL_TYPE,),
    prefixes=("new.",),
    shape=shape,
    backbone=DecoderLoader(
        DecoderNames(
            word="embeddings.word_embeddings",
            token_type="embeddings.token_type_embeddings",
            embedding_norm="embeddings.LayerNorm",
            layer=LayerNames(
                qkv=("encoder.layer.{}.attention.qkv_proj",),
                attn_out="encoder.layer.{}.attention.o_proj",
                mlp_up=("encoder.layer.{}.mlp.up_gate_proj",),
                mlp_down="encoder.layer.{}.mlp.down_proj",
                attn_residual_norm="encoder.layer.{}.attn_ln",
                mlp_residual_norm="encoder.layer.{}.mlp_ln",
                is_up_first=True,
            ),
        )
    ),
    heads=BERT_HEADS,
    pretraining=PRETRAINING,
    other_heads=(r"lm_head\..*", r"classifier\..*"),
)
