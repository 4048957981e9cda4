"""Sizes and tensor names of the BERT-like encoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from assay.errors import ConfigError, UnsupportedModelError
from assay.models.family import checked_heads, hidden_activation, refuse_keys
from assay.models.padded_heads import padded_size

if TYPE_CHECKING:
    from assay.hf_config import HFConfig


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """Sizes of an encoder, in the words of this package."""

    vocab_size: int
    hidden_size: int
    embedding_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    type_vocab_size: int
    task_type_vocab_size: int
    activation: str
    epsilon: float
    position_offset: int = 0

    def __post_init__(self) -> None:
        if self.num_layers < 1:
            raise ConfigError("config.json: a model needs at least one layer")

    @property
    def head_dim(self) -> int:
        """Of the checkpoint; softmax_scale is made of it."""
        return self.hidden_size // self.num_heads

    @property
    def padded_head_dim(self) -> int:
        """Of the loaded weights and the kernels: head_dim with zeros behind it."""
        return padded_size(self.head_dim)

    @property
    def max_model_len(self) -> int:
        """Tokens the position table has rows for."""
        return self.max_positions - self.position_offset

    @property
    def has_position_table(self) -> bool:
        return True

    @property
    def is_causal(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class EncoderLayerNames:
    """Tensor names of one layer, without .weight and .bias; `{}` is the layer's number."""

    query: str
    key: str
    value: str
    attn_out: str
    attn_norm: str
    mlp_up: str
    mlp_down: str
    mlp_norm: str


def bert_shape(config: HFConfig, *, position_offset: int = 0) -> EncoderShape:
    """Read the keys BERT introduced and most families kept."""
    refuse_unsupported(config)
    hidden_size = config.require("hidden_size")
    return EncoderShape(
        vocab_size=config.require("vocab_size"),
        hidden_size=hidden_size,
        embedding_size=hidden_size,
        num_layers=config.require("num_hidden_layers"),
        num_heads=checked_heads(config.require("num_attention_heads"), hidden_size, is_padded=True),
        intermediate_size=config.require("intermediate_size"),
        max_positions=config.get("max_position_embeddings", 512),
        type_vocab_size=config.get("type_vocab_size", 2),
        task_type_vocab_size=0,
        activation=hidden_activation(config.get("hidden_act", "gelu")),
        epsilon=float(config.get("layer_norm_eps", 1e-12)),
        position_offset=position_offset,
    )


def refuse_unsupported(config: HFConfig) -> None:
    """Raise UnsupportedModelError for config keys that change the computation in ways not implemented."""
    if config.get("position_embedding_type", "absolute") not in ("absolute", None):
        raise UnsupportedModelError("Only 'absolute' position_embedding_type is supported")
    for key in ("is_decoder", "add_cross_attention"):
        if config.get(key):
            raise UnsupportedModelError(f"config.json: {key}=true (causal or cross attention) is not supported")
    if config.get("pruned_heads"):
        raise UnsupportedModelError("config.json: pruned_heads is not supported")
    refuse_keys(config)
