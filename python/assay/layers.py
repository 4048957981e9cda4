"""Weights and forward of the parts models are made of; every computation is one call into `ops`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from assay import ops
from assay.device import CPU

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from assay.batch import RaggedBatch
    from assay.device import Device
    from assay.weights import WeightMap

HEAD_ARITHMETIC = "float32_fma"
"""Heads run in plain float32 whatever the model's dtype: scores near 0 and 1 stay apart."""


def float32(tensor: Tensor) -> Tensor:
    """`tensor` as contiguous float32, copied out of the checkpoint's memory map."""
    import torch

    return tensor.to(torch.float32, copy=True).contiguous()


def storage_dtype(arithmetic: str) -> torch.dtype:
    """What numbers are kept in for `arithmetic`: bfloat16 and float16 for those of that name, else float32."""
    import torch

    half = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    return half.get(arithmetic, torch.float32)


def in_dtype(tensor: Tensor, arithmetic: str) -> Tensor:
    """`tensor` in the storage type of `arithmetic`."""
    return tensor.to(storage_dtype(arithmetic)).contiguous()


def tensors_of(name: str, *, has_bias: bool) -> list[str]:
    """Names of a linear layer's or a norm's tensors."""
    return [f"{name}.{kind}" for kind in (("weight", "bias") if has_bias else ("weight",))]


@dataclass(frozen=True, slots=True)
class Linear:
    """hidden_states [num_rows, in_features] -> activation(hidden_states @ weight.T + bias) [num_rows, out_features]."""

    packed: Any
    in_features: int
    out_features: int
    device: Device = CPU

    @classmethod
    def pack(cls, weight: Tensor, bias: Tensor | None, arithmetic: str, device: Device = CPU) -> Linear:
        """Of weight [out_features, in_features] and bias [out_features] float32, which lie on the device."""
        packed = ops.pack_weight(weight, bias, arithmetic, device)
        return cls(packed, in_features=weight.shape[1], out_features=weight.shape[0], device=device)

    @classmethod
    def load(
        cls, weights: WeightMap, name: str, shape: tuple[int, int], arithmetic: str, *, has_bias: bool = True
    ) -> Linear:
        """Take `name`.weight [out_features, in_features] and `name`.bias."""

        def packed() -> Linear:
            weight = weights.take(f"{name}.weight", shape)
            bias = float32(weights.take(f"{name}.bias", shape[:1])) if has_bias else None
            return cls.pack(in_dtype(weight, arithmetic), bias, arithmetic, weights.device)

        return weights.part(tensors_of(name, has_bias=has_bias), packed)

    def __call__(
        self,
        hidden_states: Tensor,
        *,
        activation: str = "none",
        residual: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        return ops.linear(
            hidden_states, self.packed, activation=activation, residual=residual, out=out, device=self.device
        )


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """weight [hidden_size], bias [hidden_size] or None, float32."""

    weight: Tensor
    bias: Tensor | None
    epsilon: float
    device: Device = CPU

    @classmethod
    def load(cls, weights: WeightMap, name: str, size: int, epsilon: float, *, has_bias: bool = True) -> LayerNorm:
        """Take `name`.weight and `name`.bias."""
        bias = float32(weights.take(f"{name}.bias", (size,))) if has_bias else None
        return cls(float32(weights.take(f"{name}.weight", (size,))), bias, epsilon, weights.device)

    def __call__(self, hidden_states: Tensor, out: Tensor | None = None) -> Tensor:
        """hidden_states [num_rows, hidden_size] normed; out may be hidden_states itself."""
        return ops.layer_norm(hidden_states, self.weight, self.bias, self.epsilon, out=out, device=self.device)


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """weight [hidden_size] float32; bias is always None."""

    weight: Tensor
    epsilon: float
    bias: None = None
    device: Device = CPU

    @classmethod
    def load(cls, weights: WeightMap, name: str, size: int, epsilon: float, *, offset: float = 0.0) -> RmsNorm:
        """Take `name`.weight; `offset` is added to it (Gemma stores weight - 1)."""
        return cls(float32(weights.take(f"{name}.weight", (size,))) + offset, epsilon, device=weights.device)

    def __call__(self, hidden_states: Tensor, out: Tensor | None = None) -> Tensor:
        """hidden_states [num_rows, hidden_size] normed; out may be hidden_states itself."""
        return ops.rms_norm(hidden_states, self.weight, self.epsilon, out=out, device=self.device)


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
    device: Device = CPU

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
            self.device,
        )


class NormVectors(Protocol):
    """What `TransformerLayer.fuse` takes as a norm."""

    @property
    def weight(self) -> Tensor:
        """[size] float32"""

    @property
    def bias(self) -> Tensor | None:
        """[size] float32; None for no bias, and for every RMSNorm"""


@dataclass(frozen=True, slots=True)
class TransformerLayer:
    """One transformer block, fused into one kernel call; what it computes is in docs/kernels-layer.md."""

    packed: Any
    device: Device = CPU

    @classmethod
    def fuse(
        cls,
        *,
        qkv: Any,
        attn_out: Any,
        mlp_up: Any,
        mlp_down: Any,
        row_keys: Any = None,
        norm: str,
        epsilon: float,
        attn_in_norm: NormVectors | None = None,
        attn_out_norm: NormVectors | None = None,
        attn_residual_norm: NormVectors | None = None,
        mlp_in_norm: NormVectors | None = None,
        mlp_out_norm: NormVectors | None = None,
        mlp_residual_norm: NormVectors | None = None,
        q_norm: Tensor | None = None,
        k_norm: Tensor | None = None,
        activation: str,
        is_gated: bool,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        softmax_scale: float,
        is_causal: bool,
        window_size: tuple[int, int] = (-1, -1),
        soft_cap: float = 0.0,
        rotary_dim: int = 0,
        is_rotary_interleaved: bool = False,
        device: Device = CPU,
    ) -> TransformerLayer:
        """From packed weights (`ops.pack_weight`); norms, biases and rotary positions are there or not.

        qkv holds the query heads, then the key heads, then the value heads: [(num_heads + 2 * num_kv_heads) *
        head_dim, hidden_size]. mlp_up comes from `ops.pack_gated_weight` where is_gated. row_keys as in
        `ops.fused_layer`: with them calls with `rows` project no keys and values, for layers without rotary positions,
        q_norm, k_norm, attn_in_norm and soft cap. norm is "rms" or "layer", for all six norms; q_norm and k_norm
        [head_dim] are RMSNorms of each head before the rotation. window_size and soft_cap as in
        `ops.attention_varlen`, rotary_dim and is_rotary_interleaved as in `ops.rotary`. Raises ValueError where the
        parts do not fit each other.
        """
        return cls(
            ops.fused_layer(
                device,
                qkv=qkv,
                attn_out=attn_out,
                mlp_up=mlp_up,
                mlp_down=mlp_down,
                row_keys=row_keys,
                norm=norm,
                epsilon=epsilon,
                attn_in_norm=attn_in_norm,
                attn_out_norm=attn_out_norm,
                attn_residual_norm=attn_residual_norm,
                mlp_in_norm=mlp_in_norm,
                mlp_out_norm=mlp_out_norm,
                mlp_residual_norm=mlp_residual_norm,
                q_norm=q_norm,
                k_norm=k_norm,
                activation=activation,
                is_gated=is_gated,
                num_heads=num_heads,
                num_kv_heads=num_kv_heads,
                head_dim=head_dim,
                softmax_scale=softmax_scale,
                is_causal=is_causal,
                window_size=window_size,
                soft_cap=soft_cap,
                rotary_dim=rotary_dim,
                is_rotary_interleaved=is_rotary_interleaved,
            ),
            device,
        )

    def workspace_size(self, num_tokens: int, num_seqs: int) -> int:
        """Bytes `__call__` needs."""
        return ops.transformer_layer_workspace_size(self.packed, num_tokens, num_seqs, self.device)

    def scratch_size(self, max_seqlen: int) -> int:
        """Bytes each thread keeps for calls with sequences of up to max_seqlen tokens."""
        return ops.transformer_layer_scratch_size(self.packed, max_seqlen)

    def __call__(
        self,
        hidden_states: Tensor,
        batch: RaggedBatch,
        workspace: Tensor,
        *,
        cos: Tensor | None = None,
        sin: Tensor | None = None,
        rows: Tensor | None = None,
        rows_out: Tensor | None = None,
    ) -> Tensor:
        """hidden_states [num_tokens, hidden_size] in place, or only `rows` [num_seqs] of it into rows_out.

        cos and sin [num_positions, rotary_dim / 2] are the angles of batch.position_ids.
        """
        return ops.transformer_layer(
            hidden_states,
            batch.cu_seqlens,
            batch.max_seqlen,
            self.packed,
            workspace,
            position_ids=batch.position_ids,
            cos=cos,
            sin=sin,
            rows=rows,
            rows_out=rows_out,
            schedule=batch.schedule,
            device=self.device,
        )


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """BERT's block, post-LayerNorm: one configuration of the fused transformer layer."""

    layer: TransformerLayer

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
        row_keys: Any = None,
    ) -> EncoderLayer:
        """From packed weights; `qkv` is query, key and value stacked in that order; row_keys: see `ops.fused_layer`."""
        layer = TransformerLayer.fuse(
            qkv=qkv,
            attn_out=attn_out.packed,
            mlp_up=mlp_up.packed,
            mlp_down=mlp_down.packed,
            row_keys=row_keys,
            norm="layer",
            epsilon=attn_norm.epsilon,
            attn_residual_norm=attn_norm,
            mlp_residual_norm=mlp_norm,
            activation=activation,
            is_gated=False,
            num_heads=num_heads,
            num_kv_heads=num_heads,
            head_dim=attn_out.in_features // num_heads,
            softmax_scale=softmax_scale,
            is_causal=False,
            device=attn_out.device,
        )
        return cls(layer)

    def workspace_size(self, num_tokens: int, num_seqs: int) -> int:
        """Bytes `__call__` needs."""
        return self.layer.workspace_size(num_tokens, num_seqs)

    def scratch_size(self, max_seqlen: int) -> int:
        """Bytes each thread keeps for calls with sequences of up to max_seqlen tokens."""
        return self.layer.scratch_size(max_seqlen)

    def __call__(
        self,
        hidden_states: Tensor,
        batch: RaggedBatch,
        workspace: Tensor,
        rows: Tensor | None = None,
        rows_out: Tensor | None = None,
    ) -> Tensor:
        """hidden_states [num_tokens, hidden_size] in place, or only `rows` [num_seqs] of it into rows_out."""
        return self.layer(hidden_states, batch, workspace, rows=rows, rows_out=rows_out)
