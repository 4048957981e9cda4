"""DistilBERT: BERT blocks under other names, no token types, a head with ReLU (`pre_classifier`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.models.bert import PRETRAINING, TOKEN_HEAD
from assay.models.encoder import EncoderLoader
from assay.models.encoder_shape import EncoderLayerNames, EncoderShape, refuse_unsupported
from assay.models.family import SEQUENCE, TOKEN, Family, HeadShape, checked_heads, hidden_activation

if TYPE_CHECKING:
    from assay.hf_config import HFConfig

EPSILON = 1e-12
"""Fixed in the architecture, no config key."""


def shape(config: HFConfig) -> EncoderShape:
    """DistilBERT's own keys. Sinusoidal positions are stored as a table like learned ones."""
    refuse_unsupported(config)
    hidden_size = config.require("dim")
    return EncoderShape(
        vocab_size=config.require("vocab_size"),
        hidden_size=hidden_size,
        embedding_size=hidden_size,
        num_layers=config.require("n_layers"),
        num_heads=checked_heads(config.require("n_heads"), hidden_size, is_padded=True),
        intermediate_size=config.require("hidden_dim"),
        max_positions=config.get("max_position_embeddings", 512),
        type_vocab_size=0,
        task_type_vocab_size=0,
        activation=hidden_activation(config.get("activation", "gelu")),
        epsilon=EPSILON,
    )


FAMILY = Family(
    name="DistilBERT",
    class_names=("DistilBert",),
    model_types=("distilbert",),
    prefixes=("distilbert.",),
    shape=shape,
    backbone=EncoderLoader(
        EncoderLayerNames(
            query="transformer.layer.{}.attention.q_lin",
            key="transformer.layer.{}.attention.k_lin",
            value="transformer.layer.{}.attention.v_lin",
            attn_out="transformer.layer.{}.attention.out_lin",
            attn_norm="transformer.layer.{}.sa_layer_norm",
            mlp_up="transformer.layer.{}.ffn.lin1",
            mlp_down="transformer.layer.{}.ffn.lin2",
            mlp_norm="transformer.layer.{}.output_layer_norm",
        )
    ),
    heads={
        SEQUENCE: HeadShape(dense="pre_classifier", dense_activation="relu", classifier="classifier"),
        TOKEN: TOKEN_HEAD,
    },
    pretraining=PRETRAINING,
    other_heads=(r"vocab_(transform|layer_norm|projector)\..*",),
)
