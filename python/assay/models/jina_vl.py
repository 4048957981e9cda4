"""jina-reranker-m0: Qwen2-VL with a two-layer head that reads a token put behind every pair."""

from __future__ import annotations

import dataclasses

from assay.models import qwen2_vl
from assay.models.family import SEQUENCE, HeadShape

HEAD = HeadShape(dense="score.0", dense_activation="relu", classifier="score.2", num_labels=1, logit_mean=2.65)
"""logit_mean: the model card's constant, taken off before the sigmoid."""

FAMILY = dataclasses.replace(
    qwen2_vl.FAMILY,
    name="Jina VL",
    class_names=("JinaVL",),
    model_types=(),
    heads={"ForRanking": HEAD, SEQUENCE: HEAD},
    pretraining=(),
    lm_head=None,
    other_heads=(),
)
