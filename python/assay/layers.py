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
    """weight [hidden_size], bias [hidden_size] or None, float32."""

    weight: Tensor
    bias: Tensor | None
    epsilon: float

    @classmethod
    def load(
        cls, weights: WeightMap, name: str, size: int, epsilon: float, *, has_bias: bool = True
    ) -> LayerNorm:
        """Take `name`.weight and `name`.bias."""
        bias = float32(weights.take(f"{name}.bias", (size,))) if has_bias else None
        return cls(float32(weights.take(f"{name}.weight", (size,))), bias, epsilon)

    def __call__(self, hidden_states: Tensor, out: Tensor | None = None) -> Tensor:
        """hidden_states [num_rows, hidden_size] normed; out may be hidden_states itself."""
        return ops.layer_norm(hidden_states, self.weight, self.bias, self.epsilon, out=out)


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """weight [hidden_size] float32; bias is always None."""

    weight: Tensor
    epsilon: float
    bias: None = None

    @classmethod
    def load(cls, weights: WeightMap, name: str, size: int, epsilon: float, *, offset: float = 0.0) -> RmsNorm:
        """Take `name`.weight; `offset` is added to it (Gemma stores weight - 1)."""
        return cls(float32(weights.take(f"{name}.weight", (size,))) + offset, epsilon)

    def __call__(self, hidden_states: Tensor, out: Tensor | None = None) -> Tensor:
        """hidden_states [num_rows, hidden_size] normed; out may be hidden_states itself."""
        return ops.rms_norm(hidden_states, self.weight, self.epsilon, out=out)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Tables [rows, embedding_size], all of one dtype; absent parts are None. Sum of rows, then LayerNorm.

    task_type gives its row 0 to every token.
    """

    word: Tensor
    position: Tensor | None = None
    token_type: Tensor | None = None
    task_type: Tensor | None = None
    norm: LayerNorm | None = None

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
            None if self.norm is None else self.norm.weight,
            None if self.norm is None else self.norm.bias,
            0.0 if self.norm is None else self.norm.epsilon,
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
