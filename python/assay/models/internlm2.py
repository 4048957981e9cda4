"""InternLM2: Llama under other names, with query, key and value rows stored group by group; a reward head `v_head`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from assay.models import llama
from assay.models.decoder_loader import DecoderLoader
from assay.models.decoder_shape import DecoderNames, LayerNames
from assay.models.family import SEQUENCE, HeadShape

if TYPE_CHECKING:
    from assay.hf_config import HFConfig
    from assay.models.decoder_shape import DecoderShape


def shape(config: HFConfig) -> DecoderShape:
    """Llama's keys; `bias` is for the attention alone."""
    has_bias = bool(config.get("bias", False))
    return dataclasses.replace(llama.causal_shape(config), has_qkv_bias=has_bias, has_attn_out_bias=has_bias)


FAMILY = dataclasses.replace(
    llama.FAMILY,
    name="InternLM2",
    class_names=("InternLM2",),
    model_types=("internlm2",),
    shape=shape,
    backbone=DecoderLoader(
        DecoderNames(
            word="tok_embeddings",
            final_norm="norm",
            layer=LayerNames(
                qkv=("layers.{}.attention.wqkv",),
                attn_out="layers.{}.attention.wo",
                mlp_up=("layers.{}.feed_forward.w1", "layers.{}.feed_forward.w3"),
                mlp_down="layers.{}.feed_forward.w2",
                attn_in_norm="layers.{}.attention_norm",
                mlp_in_norm="layers.{}.ffn_norm",
                is_qkv_grouped=True,
            ),
        )
    ),
    heads={
        SEQUENCE: llama.SCORE_HEADS[SEQUENCE],
        "ForRewardModel": HeadShape(classifier="v_head", classifier_has_bias=False, is_per_token=True, num_labels=1),
    },
    lm_head="output",
    other_heads=(r"score\..*", r"v_head\..*"),
    ignored=(r"output\.weight",),
)
