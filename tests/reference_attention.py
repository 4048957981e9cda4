"""Plain torch attention over ragged sequences, in a dtype of choice: float64 gives the exact answer, the inputs' own
dtype the error that a straightforward implementation makes.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    cu_seqlens_k: Tensor,
    *,
    is_causal: bool = False,
    softmax_scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    soft_cap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    query_positions: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """q [num_tokens, num_heads, head_dim], k, v [num_k_tokens, num_kv_heads, head_dim] -> the shape of q, in dtype.

    alibi_slopes [num_heads]: scores lose slope * |key - position|. query_positions [num_seqs]: of each first query; by
    default queries are the last ones.
    """
    scale = q.shape[2] ** -0.5 if softmax_scale is None else softmax_scale
    group = q.shape[1] // k.shape[1]
    out = torch.zeros(q.shape, dtype=dtype)
    bounds = zip(pairwise(cu_seqlens.tolist()), pairwise(cu_seqlens_k.tolist()), strict=True)
    for seq, ((q_start, q_stop), (k_start, k_stop)) in enumerate(bounds):
        if q_start == q_stop or k_start == k_stop:
            continue
        queries = q[q_start:q_stop].to(dtype).transpose(0, 1)
        keys, values = (x[k_start:k_stop].to(dtype).repeat_interleave(group, dim=1).transpose(0, 1) for x in (k, v))
        scores = queries @ keys.transpose(1, 2) * scale
        if soft_cap > 0:
            scores = soft_cap * torch.tanh(scores / soft_cap)
        first = (k_stop - k_start) - (q_stop - q_start) if query_positions is None else int(query_positions[seq])
        position = torch.arange(q_stop - q_start)[:, None] + first
        key = torch.arange(k_stop - k_start)
        if alibi_slopes is not None:
            scores = scores - alibi_slopes.to(dtype)[:, None, None] * (key - position).abs()
        is_hidden = (key > position) if is_causal else torch.zeros(scores.shape[1:], dtype=torch.bool)
        left, right = window_size
        if left >= 0:
            is_hidden = is_hidden | (key < position - left)
        if right >= 0:
            is_hidden = is_hidden | (key > position + right)
        scores = scores.masked_fill(is_hidden, -math.inf)
        # A row that sees no key has only -inf scores, whose softmax is NaN: its output is zero.
        probs = scores.softmax(-1).masked_fill(scores.isneginf().all(-1, keepdim=True), 0)
        out[q_start:q_stop] = (probs @ values).transpose(0, 1)
    return out
