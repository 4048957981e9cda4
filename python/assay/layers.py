"""Weights and forward of the parts encoders are made of; every computation is one call into `ops`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay import ops

if TYPE_CHECKING:
    from torch import Tensor

    from assay.batch import RaggedBatch
    from assay.weights import WeightMap

HEAD_ARITHMETIC = "float32_fma"
"""Heads run in plain float32 whatever the model's dtype: scores near 0 and 1 stay apart."""


def float32(tensor: Tensor) -> Tensor:
    """`tensor` as contiguous float32, copied out of the checkpoint's memory map."""
    import torch

    return tensor.to(torch.float32, copy=True).contiguous()


def in_dtype(tensor: Tensor, arithmetic: str) -> Tensor:
    """`tensor` in the storage type of `arithmetic`: bfloat16 for "bfloat16", else float32."""
    import torch

    return tensor.to(torch.bfloat16 if arithmetic == "bfloat16" else torch.float32).contiguous()


@dataclass(frozen=True, slots=True)
class Linear:
    """hidden_states [num_rows, in_features] -> activation(hidden_states @ weight.T + bias) [num_rows, out_features]."""

    packed: Any
    in_features: int
    out_features: int

    @classmethod
    def load(
        cls, weights: WeightMap, name: str, shape: tuple[int, int], arithmetic: str, *, has_bias: bool = True
    ) -> Linear:
        """Take `name`.weight [out_features, in_features] and `name`.bias."""
        weight = weights.take(f"{name}.weight", shape)
        bias = weights.take(f"{name}.bias", shape[:1]) if has_bias else None
        packed = ops.pack_weight(in_dtype(weight, arithmetic), None if bias is None else float32(bias), arithmetic)
        return cls(packed, in_features=shape[1], out_features=shape[0])

    def __call__(
        self,
        hidden_states: Tensor,
        *,
        activation: str = "none",
        residual: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        return ops.linear(hidden_states, self.packed, activation=activation, residual=residual, out=out)


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """weight [hidden_size], bias [hidden_size], float32."""

    weight: Tensor
    bias: Tensor
    epsilon: float

    @classmethod
    def load(cls, weights: WeightMap, name: str, size: int, epsilon: float) -> LayerNorm:
        """Take `name`.weight and `name`.bias."""
        return cls(
            float32(weights.take(f"{name}.weight", (size,))), float32(weights.take(f"{name}.bias", (size,))), epsilon
        )


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Tables [rows, embedding_size], all of one dtype; an absent table is None. Sum of rows, then LayerNorm."""

    word: Tensor
    position: Tensor
    token_type: Tensor | None
    task_type: Tensor | None
    norm: LayerNorm

    def __call__(self, batch: RaggedBatch, out: Tensor) -> Tensor:
        """Into out [num_tokens, embedding_size] float32."""
        return ops.embed(
            batch.input_ids,
            batch.position_ids,
            batch.token_type_ids if self.token_type is not None else None,
            self.word,
            self.position,
            self.token_type,
            self.task_type,
            self.norm.weight,
            self.norm.bias,
            self.norm.epsilon,
            out,
        )


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """One post-LayerNorm transformer block, fused into one kernel call."""

    packed: Any

    @classmethod
    def fuse(
        cls,
        *,
        qkv: Any,
        attn_out: Linear,
        attn_norm: LayerNorm,
        mlp_up: Linear,
        mlp_down: Linear,
        mlp_norm: LayerNorm,
        activation: str,
        num_heads: int,
        softmax_scale: float,
    ) -> EncoderLayer:
        """From packed weights; `qkv` is query, key and value stacked in that order."""
        packed = ops.cpu_module().EncoderLayer(
            qkv,
            attn_out.packed,
            mlp_up.packed,
            mlp_down.packed,
            attn_norm.weight,
            attn_norm.bias,
            mlp_norm.weight,
            mlp_norm.bias,
            attn_norm.epsilon,
            activation,
            num_heads,
            softmax_scale,
        )
        return cls(packed)

    def workspace_size(self, num_tokens: int, num_seqs: int) -> int:
        """Bytes `__call__` needs."""
        return ops.encoder_layer_workspace_size(self.packed, num_tokens, num_seqs)

    def __call__(
        self,
        hidden_states: Tensor,
        batch: RaggedBatch,
        workspace: Tensor,
        rows: Tensor | None = None,
        rows_out: Tensor | None = None,
    ) -> Tensor:
        """hidden_states [num_tokens, hidden_size] in place, or only `rows` [num_seqs] of it into rows_out."""
        return ops.encoder_layer(
            hidden_states, batch.cu_seqlens, batch.max_seqlen, self.packed, workspace, rows, rows_out
        )
