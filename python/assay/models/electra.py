"""ELECTRA (discriminator): embeddings of their own width projected to the hidden size, a head with GELU."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from assay.models.bert import BERT_LAYER, PRETRAINING, TOKEN_HEAD
from assay.models.encoder import EncoderLoader
from assay.models.encoder_shape import EncoderShape, bert_shape
from assay.models.family import SEQUENCE, TOKEN, Family, HeadShape

if TYPE_CHECKING:
    from assay.hf_config import HFConfig


def shape(config: HFConfig) -> EncoderShape:
    """BERT's keys and embedding_size."""
    return dataclasses.replace(bert_shape(config), embedding_size=config.get("embedding_size", 128))


FAMILY = Family(
    name="ELECTRA",
    class_names=("Electra",),
    model_types=("electra",),
    prefixes=("electra.",),
    shape=shape,
    backbone=EncoderLoader(BERT_LAYER),
    heads={
        SEQUENCE: HeadShape(dense="classifier.dense", dense_activation="gelu", classifier="classifier.out_proj"),
        TOKEN: TOKEN_HEAD,
    },
    pretraining=PRETRAINING,
    other_heads=(r"discriminator_predictions\..*", r"generator_predictions\..*", r"generator_lm_head\..*"),
)
