"""Qwen2 and Qwen2.5: Llama blocks with biases on query, key and value; upper layers may have a sliding window."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from assay.models import llama
from assay.models.decoder_shape import FULL, SLIDING, layer_types, sliding_windows
from assay.models.family import HeadShape

if TYPE_CHECKING:
    from assay.hf_config import HFConfig
    from assay.models.decoder_shape import DecoderShape

STEP_TAG_ID = 151651
"""`<extra_0>`, which ends every step of a solution that Qwen's process reward models judge."""

REWARD = HeadShape(
    dense="score.0",
    dense_activation="relu",
    classifier="score.2",
    is_per_token=True,
    num_labels=1,
    use_activation=False,
)
PROCESS_REWARD = dataclasses.replace(REWARD, num_labels=2, use_activation=True, step_tag_id=STEP_TAG_ID)


def windowed_shape(config: HFConfig) -> DecoderShape:
    """Llama's keys and what decides which layers slide: layer_types, or use_sliding_window and max_window_layers."""
    plain = llama.causal_shape(config)
    window = config.get("sliding_window", 4096) if config.get("use_sliding_window", False) else None
    first = plain.num_layers if window is None else config.get("max_window_layers", 28)
    kinds = layer_types(
        config, plain.num_layers, tuple(SLIDING if idx >= first else FULL for idx in range(plain.num_layers))
    )
    return dataclasses.replace(
        plain,
        layer_types=kinds,
        ropes={kind: plain.ropes[FULL] for kind in (FULL, SLIDING)},
        windows=sliding_windows(window, kinds, plain.is_causal),
    )


def shape(config: HFConfig) -> DecoderShape:
    """The keys above; the biases are no switch here."""
    return dataclasses.replace(windowed_shape(config), has_qkv_bias=True)


FAMILY = dataclasses.replace(
    llama.FAMILY,
    name="Qwen2",
    class_names=("Qwen2",),
    model_types=("qwen2",),
    shape=shape,
    heads={**llama.SCORE_HEADS, "ForRewardModel": REWARD, "ForProcessRewardModel": PROCESS_REWARD},
)
