"""What the tests of the CUDA attention share: random ragged batches on a device and the two calls of the module."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import reference
import reference_attention
from cuda_devices import Device, address

NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True)
class Batch:
    """Tensors on the CPU; q [num_tokens, num_heads, head_dim], k and v [num_k_tokens, num_kv_heads, head_dim]."""

    q: Tensor
    k: Tensor
    v: Tensor
    lengths: list[int]
    lengths_k: list[int]

    @property
    def cu_seqlens(self) -> Tensor:
        return reference.cu_seqlens(self.lengths)

    @property
    def cu_seqlens_k(self) -> Tensor:
        return reference.cu_seqlens(self.lengths_k)

    def take(self, order: list[int]) -> Batch:
        """The sequences of these numbers, in this order."""
        parts = {"q": self.lengths, "k": self.lengths_k, "v": self.lengths_k}
        picked = {}
        for name, lengths in parts.items():
            pieces = getattr(self, name).split(lengths)
            picked[name] = torch.cat([pieces[i] for i in order])
        return Batch(**picked, lengths=[self.lengths[i] for i in order], lengths_k=[self.lengths_k[i] for i in order])

    def changed(self, **tensors: Tensor) -> Batch:
        return replace(self, **tensors)


def make_batch(
    lengths: list[int],
    dtype: torch.dtype = torch.float16,
    head_dim: int = 32,
    num_heads: int = 2,
    num_kv_heads: int | None = None,
    lengths_k: list[int] | None = None,
    seed: int = 0,
) -> Batch:
    """Large scores, so that softmax has something to subtract; k and v carry a mean."""
    lengths_k = lengths if lengths_k is None else lengths_k
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(sum(lengths), num_heads, head_dim, generator=generator) * 2
    k, v = (torch.randn(sum(lengths_k), num_kv_heads, head_dim, generator=generator) + 0.5 for _ in range(2))
    return Batch(q.to(dtype), k.to(dtype), v.to(dtype), lengths, lengths_k)


def make_schedule(
    device: Device, cu_seqlens: Tensor, cu_seqlens_k: Tensor, num_tokens: int, *, is_causal: bool = False
) -> Tensor:
    """The work list of these sequences, over poison; num_tokens may be more than there are."""
    num_seqs = cu_seqlens.numel() - 1
    size = device.module.attention_schedule_size(num_tokens=num_tokens, num_seqs=num_seqs)
    schedule = torch.full((size,), 0xFF, dtype=torch.uint8, device=device.torch_device)
    device.module.attention_schedule(
        cu_seqlens=cu_seqlens.data_ptr(),
        cu_seqlens_k=cu_seqlens_k.data_ptr(),
        num_seqs=num_seqs,
        num_tokens=num_tokens,
        is_causal=is_causal,
        schedule=schedule.data_ptr(),
        stream=device.stream(),
    )
    return schedule


def launch(
    device: Device,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    schedule: Tensor,
    num_seqs: int,
    *,
    num_tokens: int | None = None,
    is_causal: bool = False,
    softmax_scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    soft_cap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    query_positions: Tensor | None = None,
    attention_path: str | None = None,
) -> None:
    """One call of attention_varlen on tensors of the device."""
    device.module.attention_varlen(
        q=q.data_ptr(),
        k=k.data_ptr(),
        v=v.data_ptr(),
        dtype=NAMES[q.dtype],
        q_stride=q.stride(0),
        k_stride=k.stride(0),
        v_stride=v.stride(0),
        num_seqs=num_seqs,
        num_tokens=q.shape[0] if num_tokens is None else num_tokens,
        num_key_tokens=k.shape[0],
        num_heads=q.shape[1],
        num_kv_heads=k.shape[1],
        head_dim=q.shape[2],
        softmax_scale=q.shape[2] ** -0.5 if softmax_scale is None else softmax_scale,
        is_causal=is_causal,
        window_left=window_size[0],
        window_right=window_size[1],
        soft_cap=soft_cap,
        alibi_slopes=address(alibi_slopes),
        query_positions=address(query_positions),
        out=out.data_ptr(),
        out_stride=out.stride(0),
        schedule=schedule.data_ptr(),
        stream=device.stream(),
        attention_path=attention_path,
    )


def run(device: Device, batch: Batch, **settings: Any) -> Tensor:
    """The kernel's answer, written over NaN, on the CPU."""
    settings = {name: device.put(x) if isinstance(x, Tensor) else x for name, x in settings.items()}
    q, k, v, cu_seqlens, cu_seqlens_k = (
        device.put(x) for x in (batch.q, batch.k, batch.v, batch.cu_seqlens, batch.cu_seqlens_k)
    )
    is_causal = settings.get("is_causal", False)
    schedule = make_schedule(device, cu_seqlens, cu_seqlens_k, q.shape[0], is_causal=is_causal)
    out = torch.full_like(q, float("nan"))
    launch(device, q, k, v, out, schedule, len(batch.lengths), **settings)
    return out.cpu()


def check(device: Device, batch: Batch, attention_path: str | None = None, **settings: Any) -> None:
    """Within twice the error of the plain form in the same dtype, plus the rounding floor."""
    tensors = (batch.q, batch.k, batch.v, batch.cu_seqlens, batch.cu_seqlens_k)
    exact = reference_attention.attention(*tensors, **settings)
    base = reference_attention.attention(*tensors, dtype=batch.q.dtype, **settings)
    error = reference.max_err(run(device, batch, attention_path=attention_path, **settings), exact)
    depth = batch.q.shape[2] + max(batch.lengths_k, default=0)  # a score sums over head_dim, an output over keys
    assert error <= reference.budget(base, exact, depth)
