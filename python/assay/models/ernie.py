"""ERNIE: BERT plus one task-type row (always row 0) in every token's embedding."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from assay.models.bert import BERT_HEADS, BERT_LAYER, PRETRAINING
from assay.models.encoder import EncoderLoader
from assay.models.encoder_shape import EncoderShape, bert_shape
from assay.models.family import Family

if TYPE_CHECKING:
    from assay.hf_config import HFConfig


def shape(config: HFConfig) -> EncoderShape:
    """BERT's keys; the task-type table exists where use_task_id says so."""
    rows = max(1, config.get("task_type_vocab_size", 3)) if config.get("use_task_id", False) else 0
    return dataclasses.replace(bert_shape(config), task_type_vocab_size=rows)


FAMILY = Family(
    name="ERNIE",
    class_names=("Ernie",),
    model_types=("ernie",),
    prefixes=("ernie.", "bert."),
    shape=shape,
    backbone=EncoderLoader(BERT_LAYER),
    heads=BERT_HEADS,
    pretraining=PRETRAINING,
    ignored=(r"cls\..*", r"lm_head\..*", r"{}embeddings\.task_type_embeddings\.weight"),
)
