"""Rotary positions and attention: heads inside rows of any stride."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.cuda_kernels.border import Border, address, dtype_name

if TYPE_CHECKING:
    from torch import Tensor


class Heads(Border):
    """`rotary` and `attention_varlen`."""

    def rotary(
        self,
        q: Tensor,
        k: Tensor,
        cos: Tensor,
        sin: Tensor,
        position_ids: Tensor,
        is_interleaved: bool,
        q_norm: Tensor | None,
        k_norm: Tensor | None,
        epsilon: float,
    ) -> None:
        """See `ops.rotary`."""
        import torch

        check, float32 = self._checks.check, (torch.float32,)
        self._check_heads(q, "q", self._floats(), None, None)
        num_tokens, num_heads, head_dim = q.shape
        self._check_heads(k, "k", (q.dtype,), num_tokens, head_dim)
        check(cos, "cos", float32, (None, None))
        check(sin, "sin", float32, tuple(cos.shape))
        check(position_ids, "position_ids", (torch.int32,), (num_tokens,))
        for norm, name in ((q_norm, "q_norm"), (k_norm, "k_norm")):
            if norm is not None:
                check(norm, name, float32, (head_dim,))
        self._module.rotary(
            q=address(q),
            q_stride=q.stride(0),
            num_heads=num_heads,
            k=address(k),
            k_stride=k.stride(0),
            num_kv_heads=k.shape[1],
            head_dim=head_dim,
            position_ids=address(position_ids),
            cos=address(cos),
            sin=address(sin),
            rotary_dim=2 * cos.shape[1],
            is_interleaved=is_interleaved,
            q_norm=address(q_norm),
            k_norm=address(k_norm),
            epsilon=epsilon,
            dtype=dtype_name(q),
            num_live_rows=0,
            num_tokens=num_tokens,
            stream=self._stream(),
        )

    def attention_schedule_size(self, num_tokens: int, num_seqs: int) -> int:
        """See `ops.attention_schedule_size`."""
        return int(self._module.attention_schedule_size(num_tokens=num_tokens, num_seqs=num_seqs))

    def attention_schedule(self, cu_seqlens: Tensor, num_tokens: int, out: Tensor, is_causal: bool) -> None:
        """See `ops.attention_schedule`."""
        import torch

        self._checks.check(cu_seqlens, "cu_seqlens", (torch.int32,), (None,))
        size = self.attention_schedule_size(num_tokens, len(cu_seqlens) - 1)
        self._checks.check(out, "out", (torch.uint8,), (size,))
        self._schedule(cu_seqlens, cu_seqlens, num_tokens, out, is_causal)

    def _schedule(
        self, cu_seqlens: Tensor, cu_seqlens_k: Tensor, num_tokens: int, out: Tensor, is_causal: bool
    ) -> None:
        self._module.attention_schedule(
            cu_seqlens=address(cu_seqlens),
            cu_seqlens_k=address(cu_seqlens_k),
            num_seqs=len(cu_seqlens) - 1,
            num_tokens=num_tokens,
            is_causal=is_causal,
            schedule=address(out),
            stream=self._stream(),
        )

    def attention_varlen(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen: int,
        max_seqlen_k: int,
        is_causal: bool,
        softmax_scale: float,
        window_left: int,
        window_right: int,
        soft_cap: float,
        out: Tensor,
    ) -> None:
        """See `ops.attention_varlen`; the lengths are read on the device, and the longest need not be known."""
        import torch

        self._check_heads(q, "q", self._floats(), None, None)
        num_tokens, num_heads, head_dim = q.shape
        self._check_heads(k, "k", (q.dtype,), None, head_dim)
        self._check_heads(v, "v", (q.dtype,), len(k), head_dim)
        self._check_heads(out, "out", (q.dtype,), num_tokens, head_dim)
        if v.shape != k.shape:
            raise ValueError(f"v must have the shape of k, {list(k.shape)}, got {list(v.shape)}")
        if out.shape != q.shape:
            raise ValueError(f"out must have the shape of q, {list(q.shape)}, got {list(out.shape)}")
        self._checks.check(cu_seqlens, "cu_seqlens", (torch.int32,), (None,))
        self._checks.check(cu_seqlens_k, "cu_seqlens_k", (torch.int32,), (len(cu_seqlens),))
        num_seqs = len(cu_seqlens) - 1
        size = self.attention_schedule_size(num_tokens, num_seqs)
        schedule = torch.empty(size, dtype=torch.uint8, device=q.device)
        self._schedule(cu_seqlens, cu_seqlens_k, num_tokens, schedule, is_causal)
        self._module.attention_varlen(
            q=address(q),
            k=address(k),
            v=address(v),
            dtype=dtype_name(q),
            q_stride=q.stride(0),
            k_stride=k.stride(0),
            v_stride=v.stride(0),
            num_heads=num_heads,
            num_kv_heads=k.shape[1],
            head_dim=head_dim,
            softmax_scale=softmax_scale,
            window_left=window_left,
            window_right=window_right,
            soft_cap=soft_cap,
            alibi_slopes=0,
            query_positions=0,
            out=address(out),
            out_stride=out.stride(0),
            num_seqs=num_seqs,
            num_tokens=num_tokens,
            num_key_tokens=len(k),
            is_causal=is_causal,
            schedule=address(schedule),
            stream=self._stream(),
        )
