"""Attention heads filled up with zeros to a size that the kernels take.

Zero rows in the projections of queries, keys and values add nothing to a score and make zeros of a context's last
columns; zero columns in the output projection read those. So a model computes what it did, with softmax_scale of its
own head size. Heads with rotary positions cannot be filled up at their end: position i turns with i + rotary_dim / 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.models.family import HEAD_DIM_STEP

if TYPE_CHECKING:
    from torch import Tensor


def padded_size(head_dim: int) -> int:
    """The next size that the kernels take."""
    return -(-head_dim // HEAD_DIM_STEP) * HEAD_DIM_STEP


def pad_head_rows(rows: Tensor, head_dim: int, padded_head_dim: int) -> Tensor:
    """Weight or bias [num_heads * head_dim, ...] -> [num_heads * padded_head_dim, ...], zeros behind each head."""
    if padded_head_dim == head_dim:
        return rows
    rest = rows.shape[1:]
    padded = rows.new_zeros((rows.shape[0] // head_dim, padded_head_dim, *rest))
    padded[:, :head_dim] = rows.view(-1, head_dim, *rest)
    return padded.view(-1, *rest)


def pad_head_columns(weight: Tensor, head_dim: int, padded_head_dim: int) -> Tensor:
    """Weight [out_features, num_heads * head_dim] -> [out_features, num_heads * padded_head_dim], the same way."""
    if padded_head_dim == head_dim:
        return weight
    padded = weight.new_zeros((weight.shape[0], weight.shape[1] // head_dim, padded_head_dim))
    padded[..., :head_dim] = weight.view(weight.shape[0], -1, head_dim)
    return padded.flatten(1)
