"""Mistral: Llama blocks; where a sliding window is set, every layer has it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from assay.errors import UnsupportedModelError
from assay.models import llama
from assay.models.decoder_shape import FULL, SLIDING, sliding_windows

if TYPE_CHECKING:
    from assay.hf_config import HFConfig
    from assay.models.decoder_shape import DecoderShape


def shape(config: HFConfig) -> DecoderShape:
    """Llama's keys and sliding_window."""
    plain = llama.causal_shape(config)
    window = config.get("sliding_window", 4096)
    kind = FULL if window is None else SLIDING
    kinds = (kind,) * plain.num_layers
    if config.get("layer_types") not in (None, list(kinds)):
        raise UnsupportedModelError("config.json: layer_types that contradict a Mistral model's sliding_window")
    return dataclasses.replace(
        plain,
        layer_types=kinds,
        ropes={kind: plain.ropes[FULL]},
        windows=sliding_windows(window, kinds, plain.is_causal),
    )


FAMILY = dataclasses.replace(
    llama.FAMILY, name="Mistral", class_names=("Mistral",), model_types=("mistral",), shape=shape
)
