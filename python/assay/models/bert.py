"""BERT: word + position + token type, post-LayerNorm blocks; the pooler (dense + tanh) belongs to the backbone."""

from __future__ import annotations

from assay.models.encoder import EncoderLoader
from assay.models.encoder_shape import EncoderLayerNames, bert_shape
from assay.models.family import SEQUENCE, TOKEN, Family, HeadShape

BERT_LAYER = EncoderLayerNames(
    query="encoder.layer.{}.attention.self.query",
    key="encoder.layer.{}.attention.self.key",
    value="encoder.layer.{}.attention.self.value",
    attn_out="encoder.layer.{}.attention.output.dense",
    attn_norm="encoder.layer.{}.attention.output.LayerNorm",
    mlp_up="encoder.layer.{}.intermediate.dense",
    mlp_down="encoder.layer.{}.output.dense",
    mlp_norm="encoder.layer.{}.output.LayerNorm",
)

TOKEN_HEAD = HeadShape(classifier="classifier", is_per_token=True)

BERT_HEADS = {SEQUENCE: HeadShape(dense="{}pooler.dense", classifier="classifier"), TOKEN: TOKEN_HEAD}

PRETRAINING = ("ForMaskedLM", "ForPreTraining")
"""Classes whose backbone a sentence-transformers folder may use; alone they answer no question here."""

FAMILY = Family(
    name="BERT",
    class_names=("Bert",),
    model_types=("bert",),
    prefixes=("bert.",),
    shape=bert_shape,
    backbone=EncoderLoader(BERT_LAYER),
    heads=BERT_HEADS,
    pretraining=PRETRAINING,
    other_heads=(r"cls\..*",),
)
