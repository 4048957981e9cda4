"""Gemma: Llama blocks with scaled embeddings, norm weights stored less 1, and GELU in the gated MLP."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from assay.errors import UnsupportedModelError
from assay.models import llama
from assay.models.family import hidden_activation, refuse_keys

if TYPE_CHECKING:
    from assay.hf_config import HFConfig
    from assay.models.decoder_shape import DecoderShape

HEAD_DIM = 256
TANH_GELU = "gelu_pytorch_tanh"
"""What transformers takes where config.json does not say."""


def gemma_shape(config: HFConfig) -> DecoderShape:
    """Llama's keys with Gemma's defaults.

    The activation is hidden_activation, by default the tanh form of GELU.
    """
    config = config.copy()
    config.update(
        {
            "head_dim": config.get("head_dim") or HEAD_DIM,
            "hidden_act": config.get("hidden_activation") or TANH_GELU,
        }
    )
    has_bias = bool(config.get("attention_bias", False))
    plain = llama.causal_shape(config)
    return dataclasses.replace(
        plain,
        activation=hidden_activation(config.get("hidden_act")),
        has_qkv_bias=has_bias,
        has_attn_out_bias=has_bias,
        embedding_scale=plain.hidden_size**0.5,
        norm_offset=1.0,
    )


def shape(config: HFConfig) -> DecoderShape:
    """Gemma 1; the bidirectional switch is refused, because transformers itself masks such a model causally.

    transformers reads hidden_act here, and takes "gelu" for the tanh form: the first releases name the exact one by
    mistake. Raises UnsupportedModelError for a hidden_activation, which older versions read, that is another function.
    """
    refuse_keys(config, "use_bidirectional_attention")
    name, older = config.get("hidden_act", TANH_GELU), config.get("hidden_activation")
    name = TANH_GELU if name in ("gelu", None) else name
    if older is not None and hidden_activation(older) != hidden_activation(name):
        raise UnsupportedModelError(
            f"config.json: hidden_activation={older!r} contradicts hidden_act={config.get('hidden_act')!r}, which "
            f"transformers reads as {name!r}"
        )
    config = config.copy()
    config.update({"hidden_activation": name})
    return gemma_shape(config)


FAMILY = dataclasses.replace(
    llama.FAMILY, name="Gemma", class_names=("Gemma",), model_types=("gemma",), shape=shape, is_tied=True
)
