"""One transformer block in plain torch, in a dtype of choice, and the tensors it is made of: every part that
`ops.transformer_layer` knows, there or not. Written after the formulas, not after the kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import reference
import reference_attention
from assay import ops
from assay.layers import TransformerLayer

NORMS = (
    "attn_in_norm",
    "attn_out_norm",
    "attn_residual_norm",
    "mlp_in_norm",
    "mlp_out_norm",
    "mlp_residual_norm",
)


@dataclass(frozen=True)
class Norm:
    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Config:
    """Sizes and switches of a block; the defaults are small and odd."""

    hidden: int = 48
    inner: int = 72
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 16
    norm: str = "rms"
    norms: tuple[str, ...] = ("attn_in_norm", "mlp_in_norm")
    has_norm_bias: bool = False
    has_bias: bool = False
    has_head_norms: bool = False
    activation: str = "silu"
    is_gated: bool = True
    is_causal: bool = True
    window_size: tuple[int, int] = (-1, -1)
    soft_cap: float = 0.0
    rotary_dim: int = 16
    is_rotary_interleaved: bool = False
    softmax_scale: float = 0.3
    epsilon: float = 1e-5

    def settings(self) -> dict[str, Any]:
        """What a transformer layer takes beside tensors."""
        named = ("norm", "epsilon", "activation", "is_gated", "num_heads", "num_kv_heads", "head_dim", "softmax_scale")
        switches = ("is_causal", "window_size", "soft_cap", "rotary_dim", "is_rotary_interleaved")
        return {name: getattr(self, name) for name in (*named, *switches)}


LLAMA = Config()
FAMILIES = {
    "bert": Config(
        norm="layer",
        norms=("attn_residual_norm", "mlp_residual_norm"),
        has_norm_bias=True,
        has_bias=True,
        num_kv_heads=4,
        head_dim=12 + 4,
        activation="gelu",
        is_gated=False,
        is_causal=False,
        rotary_dim=0,
    ),
    "llama": LLAMA,
    "qwen2": replace(LLAMA, has_bias=True, num_kv_heads=1),
    "qwen3": replace(LLAMA, has_head_norms=True, head_dim=24, rotary_dim=24),
    "gemma2": replace(LLAMA, norms=NORMS[:2] + NORMS[3:5], activation="gelu_tanh", soft_cap=2.0, window_size=(20, 0)),
    "gpt2": replace(
        LLAMA,
        norm="layer",
        has_norm_bias=True,
        has_bias=True,
        num_kv_heads=4,
        activation="gelu_tanh",
        is_gated=False,
        rotary_dim=0,
    ),
    "modernbert_first": replace(
        LLAMA, norm="layer", norms=("mlp_in_norm",), num_kv_heads=4, activation="gelu", is_causal=False
    ),
    "modernbert_local": replace(
        LLAMA, norm="layer", num_kv_heads=4, activation="gelu", is_causal=False, window_size=(8, 8)
    ),
    "gte": replace(
        LLAMA,
        norm="layer",
        norms=("attn_residual_norm", "mlp_residual_norm"),
        has_norm_bias=True,
        has_bias=True,
        activation="gelu",
        is_causal=False,
    ),
    "partial_interleaved": replace(LLAMA, rotary_dim=10, is_rotary_interleaved=True, has_head_norms=True, inner=50),
    "everything": replace(
        LLAMA, norm="layer", norms=NORMS, has_norm_bias=True, has_bias=True, has_head_norms=True, activation="relu"
    ),
}
"""A configuration per kind of model; together they switch every part on and off."""

WRONG_WEIGHTS: list[tuple[dict[str, Any], str]] = [
    ({"num_heads": 3}, "num_heads 3 must be a multiple of num_kv_heads, got 2"),
    ({"num_heads": 0}, "num_heads must be >= 1, got 0"),
    ({"head_dim": 12}, "head_dim must be a multiple of 8 from 8 to 256, got 12"),
    ({"head_dim": 24}, r"qkv must be \[192, 48\], got \[128, 48\]"),
    ({"mlp_down": "attn_out"}, r"mlp_down must be \[48, 72\], got \[48, 64\]"),
    ({"attn_out": "mlp_down"}, r"attn_out must be \[48, 64\], got \[48, 72\]"),
    ({"is_gated": False}, "mlp_up must be a plain weight, got a gated one"),
    ({"norm": "batch"}, "norm='batch': choose one of layer, rms"),
    ({"activation": "swish"}, "activation='swish': choose one of none, gelu"),
    ({"epsilon": float("nan")}, "epsilon must be finite and >= 0, got nan"),
    ({"softmax_scale": 0.0}, "softmax_scale must be finite and > 0, got 0"),
    ({"soft_cap": -1.0}, "soft_cap must be finite and >= 0, got -1"),
    ({"window_size": (-2, 0)}, r"window_size must be two numbers >= -1, got \(-2, 0\)"),
    ({"rotary_dim": 18}, "rotary_dim must be an even number from 0 to head_dim 16, got 18"),
    ({"rotary_dim": 7}, "rotary_dim must be an even number from 0 to head_dim 16, got 7"),
    ({"q_norm": reference.poisoned(47)}, r"q_norm must have shape \[16\], got \[47\]"),
    ({"k_norm": torch.ones(16).bfloat16()}, "k_norm must be float32, got bfloat16"),
]
"""Arguments that do not fit the layer of LLAMA, and what is said of them; a text names a weight to take instead."""

NUM_POSITIONS = 1024


@dataclass
class Layer:
    """Random tensors of one block, the reference over them and the packed layer."""

    config: Config
    arithmetic: str = "float32"
    has_row_keys: bool = False
    weights: dict[str, Tensor] = field(init=False)
    biases: dict[str, Tensor | None] = field(init=False)
    norms: dict[str, Norm] = field(init=False)

    def __post_init__(self) -> None:
        c = self.config
        generator = torch.Generator().manual_seed(11)

        def make(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator) / math.sqrt(shape[-1])

        q_size, kv_size = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        shapes = {
            "qkv": (q_size + 2 * kv_size, c.hidden),
            "attn_out": (c.hidden, q_size),
            "gate": (c.inner, c.hidden),
            "up": (c.inner, c.hidden),
            "down": (c.hidden, c.inner),
        }
        self.weights = {name: make(*shape) for name, shape in shapes.items()}
        if self.arithmetic == "bfloat16":  # what the arithmetic rounds is its definition
            self.weights = {name: weight.bfloat16().float() for name, weight in self.weights.items()}
        self.biases = {name: make(shape[0]) if c.has_bias else None for name, shape in shapes.items()}
        self.norms = {name: Norm(1 + make(c.hidden), make(c.hidden) if c.has_norm_bias else None) for name in c.norms}
        self.q_norm, self.k_norm = (1 + make(c.head_dim) if c.has_head_norms else None for _ in range(2))
        angles = torch.arange(NUM_POSITIONS)[:, None] * 100.0 ** -torch.linspace(0, 1, max(c.rotary_dim // 2, 1))
        self.cos, self.sin = (angles.cos(), angles.sin()) if c.rotary_dim else (None, None)
        self.layer = self.fuse()

    def packed(self) -> dict[str, Any]:
        """The four packed weights."""

        def pack(name: str) -> Any:
            return ops.pack_weight(self.weights[name], self.biases[name], self.arithmetic)

        up = pack("up")
        if self.config.is_gated:
            up = ops.pack_gated_weight(
                self.weights["gate"], self.weights["up"], self.biases["gate"], self.biases["up"], self.arithmetic
            )
        return {"qkv": pack("qkv"), "attn_out": pack("attn_out"), "mlp_up": up, "mlp_down": pack("down")}

    def row_keys(self) -> Any:
        """The key projection transposed head by head, packed."""
        c = self.config
        first = c.num_heads * c.head_dim
        keys = self.weights["qkv"][first : first + c.num_kv_heads * c.head_dim]
        by_head = keys.view(c.num_kv_heads, c.head_dim, c.hidden).transpose(1, 2).reshape(-1, c.head_dim)
        return ops.pack_weight(by_head, None, self.arithmetic)

    def fuse(self, **changes: Any) -> TransformerLayer:
        """The layer under test; `changes` replace arguments."""
        arguments: dict[str, Any] = dict(
            **self.packed(),
            **self.norms,
            q_norm=self.q_norm,
            k_norm=self.k_norm,
            row_keys=self.row_keys() if self.has_row_keys else None,
            **self.config.settings(),
        )
        return TransformerLayer.fuse(**{**arguments, **changes})

    def reference(self, hidden_states: Tensor, lengths: list[int], position_ids: Tensor, dtype: torch.dtype) -> Tensor:
        """The block's output [num_tokens, hidden] in `dtype`."""
        c = self.config
        x = hidden_states.to(dtype)

        def linear(x: Tensor, name: str) -> Tensor:
            bias = self.biases[name]
            product = x @ self.weights[name].to(dtype).T
            return product if bias is None else product + bias.to(dtype)

        def norm(x: Tensor, name: str) -> Tensor:
            if name not in self.norms:
                return x
            weight, bias = self.norms[name].weight.to(dtype), self.norms[name].bias
            if c.norm == "rms":
                return reference.rms_norm(x, weight, c.epsilon)
            return reference.layer_norm(x, weight, None if bias is None else bias.to(dtype), c.epsilon)

        def heads(x: Tensor, num_heads: int, head_norm: Tensor | None, *, has_angles: bool) -> Tensor:
            x = x.view(len(x), num_heads, c.head_dim)
            if head_norm is not None:
                x = reference.rms_norm(x, head_norm.to(dtype), c.epsilon)
            if self.cos is None or self.sin is None or not has_angles:
                return x
            cos, sin = self.cos.to(dtype), self.sin.to(dtype)
            return reference.rotary(x, cos, sin, position_ids, c.is_rotary_interleaved)

        sizes = [c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.num_kv_heads * c.head_dim]
        q, k, v = linear(norm(x, "attn_in_norm"), "qkv").split(sizes, dim=1)
        offsets = reference.cu_seqlens(lengths)
        context = reference_attention.attention(
            heads(q, c.num_heads, self.q_norm, has_angles=True),
            heads(k, c.num_kv_heads, self.k_norm, has_angles=True),
            heads(v, c.num_kv_heads, None, has_angles=False),
            offsets,
            offsets,
            is_causal=c.is_causal,
            softmax_scale=c.softmax_scale,
            window_size=c.window_size,
            soft_cap=c.soft_cap,
            dtype=dtype,
        )
        attention = norm(linear(context.reshape(len(x), -1), "attn_out"), "attn_out_norm")
        x = norm(x + attention, "attn_residual_norm")
        activate = reference.ACTIVATIONS[c.activation]
        h = norm(x, "mlp_in_norm")
        wide = activate(linear(h, "gate")) * linear(h, "up") if c.is_gated else activate(linear(h, "up"))
        return norm(x + norm(linear(wide, "down"), "mlp_out_norm"), "mlp_residual_norm")
