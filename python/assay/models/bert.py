"""BERT: word + position + token type, post-LayerNorm blocks; the pooler (dense + tanh) belongs to the backbone."""

from __future__ import annotations

from assay.models.family import Family, HeadNames, LayerNames, bert_shape

BERT_LAYER = LayerNames(
    query="encoder.layer.{}.attention.self.query",
    key="encoder.layer.{}.attention.self.key",
    value="encoder.layer.{}.attention.self.value",
    attn_out="encoder.layer.{}.attention.output.dense",
    attn_norm="encoder.layer.{}.attention.output.LayerNorm",
    mlp_up="encoder.layer.{}.intermediate.dense",
    mlp_down="encoder.layer.{}.output.dense",
    mlp_norm="encoder.layer.{}.output.LayerNorm",
)

BERT_HEAD = HeadNames(dense="{}pooler.dense", dense_activation="tanh", classifier="classifier")

FAMILY = Family(
    name="BERT",
    class_names=("Bert",),
    model_types=("bert",),
    prefixes=("bert.",),
    shape=bert_shape,
    layer=BERT_LAYER,
    head=BERT_HEAD,
    other_heads=(r"cls\..*",),
)
