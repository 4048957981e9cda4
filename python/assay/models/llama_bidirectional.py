"""LlamaBidirectional: Llama without the causal mask; config.json must say how it is pooled."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from assay.errors import UnsupportedModelError
from assay.models import llama
from assay.models.family import SEQUENCE

if TYPE_CHECKING:
    from assay.hf_config import HFConfig
    from assay.models.decoder_shape import DecoderShape

POOLING = {"avg": "mean", "cls": "cls", "last": "last_token"}


def shape(config: HFConfig) -> DecoderShape:
    """Llama's keys; every token sees all others."""
    return dataclasses.replace(llama.shape(config), is_causal=False)


def pooling(config: HFConfig) -> str:
    """What the `pooling` key says; raises UnsupportedModelError where it is missing or unknown."""
    stated = config.get("pooling")
    if stated is None:
        raise UnsupportedModelError(
            "This bidirectional model requires a 'pooling' field in its HF config (one of 'avg', 'cls', 'last'), but "
            "none was found. Unlike the VL variants, no default is assumed here because silently picking a pooling for "
            "an embedding model can produce wrong embeddings."
        )
    if stated not in POOLING:
        raise UnsupportedModelError(f"pool_type {stated!r} not supported")
    return POOLING[stated]


FAMILY = dataclasses.replace(
    llama.FAMILY,
    name="LlamaBidirectional",
    class_names=("LlamaBidirectional",),
    model_types=("llama_bidirec",),
    shape=shape,
    heads={SEQUENCE: llama.SCORE_HEADS[SEQUENCE]},
    pooling=pooling,
    pretraining=(),
)
