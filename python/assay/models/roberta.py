"""RoBERTa, XLM-RoBERTa, CamemBERT: BERT blocks, positions from pad_token_id + 1, a head outside the backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.models.bert import BERT_LAYER, PRETRAINING, TOKEN_HEAD
from assay.models.encoder import EncoderLoader
from assay.models.encoder_shape import EncoderShape, bert_shape
from assay.models.family import SEQUENCE, TOKEN, Family, HeadShape

if TYPE_CHECKING:
    from assay.hf_config import HFConfig


def shape(config: HFConfig) -> EncoderShape:
    """BERT's keys; the rows of the position table up to the padding row are never used."""
    if config.get("pad_token_id", 1) is None:
        config = config.copy()
        config.update({"pad_token_id": 1})
    return bert_shape(config, position_offset=config.get("pad_token_id", 1) + 1)


FAMILY = Family(
    name="RoBERTa",
    class_names=("Roberta", "XLMRoberta", "Camembert"),
    model_types=("roberta", "xlm-roberta", "camembert"),
    prefixes=("roberta.",),
    shape=shape,
    backbone=EncoderLoader(BERT_LAYER),
    heads={SEQUENCE: HeadShape(dense="classifier.dense", classifier="classifier.out_proj"), TOKEN: TOKEN_HEAD},
    pretraining=PRETRAINING,
    other_heads=(r"lm_head\..*",),
    ignored=(r"{}pooler\..*",),  # saved by older versions, read by no classifier
)
