"""GPT-2: LayerNorm before attention and MLP, learned positions, weights stored [in_features, out_features]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.models.decoder_loader import DecoderLoader
from assay.models.decoder_shape import FULL, DecoderNames, DecoderShape, LayerNames, sees_past_only
from assay.models.family import (
    SEQUENCE,
    TOKEN,
    Family,
    HeadShape,
    checked_heads,
    hidden_activation,
    last_token,
    refuse_keys,
)
from assay.models.llama import LM_HEAD, SCORE_HEADS

if TYPE_CHECKING:
    from assay.hf_config import HFConfig


def shape(config: HFConfig) -> DecoderShape:
    """GPT-2's own keys. reorder_and_upcast_attn needs nothing: scores are float32 here always."""
    refuse_keys(config, "add_cross_attention")
    hidden_size, num_layers = config.require("n_embd"), config.require("n_layer")
    num_heads = checked_heads(config.require("n_head"), hidden_size, is_padded=True)
    head_dim = hidden_size // num_heads
    scale = head_dim**-0.5 if config.get("scale_attn_weights", True) else 1.0
    by_layer = bool(config.get("scale_attn_by_inverse_layer_idx", False))
    return DecoderShape(
        vocab_size=config.require("vocab_size"),
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        intermediate_size=config.get("n_inner") or 4 * hidden_size,
        max_positions=config.get("n_positions", 1024),
        activation=hidden_activation(config.get("activation_function", "gelu_new")),
        is_gated=False,
        norm="layer",
        epsilon=float(config.get("layer_norm_epsilon", 1e-5)),
        layer_types=(FULL,) * num_layers,
        softmax_scales=tuple(scale / (idx + 1) if by_layer else scale for idx in range(num_layers)),
        is_causal=sees_past_only(config),
        has_qkv_bias=True,
        has_attn_out_bias=True,
        has_mlp_up_bias=True,
        has_mlp_down_bias=True,
        has_norm_bias=True,
    )


FAMILY = Family(
    name="GPT-2",
    class_names=("GPT2",),
    model_types=("gpt2",),
    prefixes=("transformer.",),
    shape=shape,
    backbone=DecoderLoader(
        DecoderNames(
            word="wte",
            position="wpe",
            final_norm="ln_f",
            layer=LayerNames(
                qkv=("h.{}.attn.c_attn",),
                attn_out="h.{}.attn.c_proj",
                mlp_up=("h.{}.mlp.c_fc",),
                mlp_down="h.{}.mlp.c_proj",
                attn_in_norm="h.{}.ln_1",
                mlp_in_norm="h.{}.ln_2",
                is_conv1d=True,
            ),
        )
    ),
    heads={SEQUENCE: SCORE_HEADS[SEQUENCE], TOKEN: HeadShape(classifier="classifier", is_per_token=True)},
    pooling=last_token,
    pretraining=("LMHeadModel", "DoubleHeadsModel"),
    lm_head="lm_head",
    is_tied=True,
    other_heads=(r"score\..*", r"multiple_choice_head\..*"),
    ignored=(LM_HEAD, r"{}h\.\d+\.attn\.(bias|masked_bias)"),  # the last two are the causal mask
)
