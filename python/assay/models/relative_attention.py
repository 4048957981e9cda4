"""Attention whose scores depend on the distance between two tokens, one sequence of a ragged batch at a time.

torch computes it, in float32. The bits of its products hang on their shapes and on where in a vector memory begins, so
each sequence is copied out of the batch first: what is computed then depends on the sequence alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from assay.models.packed_attention import PackedSequences

    AddDistances = Callable[[Tensor, Tensor, Tensor], None]
    """(scores, q, k) of one sequence: adds to scores [heads, length, length] what the distances say."""


def attend_each(
    sequences: PackedSequences, q: Tensor, k: Tensor, v: Tensor, softmax_scale: float, add_distances: AddDistances
) -> Tensor:
    """q, k, v [num_tokens, heads, head_dim] -> [num_tokens, heads * head_dim]; add_distances gets q times the scale."""
    assert sequences.batch is not None
    out = v.reshape(len(v), -1).clone()  # a token that sees itself only gets its own value
    start = 0
    for length in sequences.batch.seqlens():
        if length > 1:
            rows = slice(start, start + length)
            queries, keys, values = (_head_major(part[rows]) for part in (q, k, v))
            out[rows] = _attend(queries.mul_(softmax_scale), keys, values, add_distances)
        start += length
    sequences.num_calls += 1
    return out


def _attend(q: Tensor, k: Tensor, v: Tensor, add_distances: AddDistances) -> Tensor:
    """q, k, v [heads, length, head_dim] -> [length, heads * head_dim]."""
    import torch

    scores = torch.bmm(q, k.transpose(1, 2))
    add_distances(scores, q, k)
    return torch.bmm(scores.softmax(dim=-1), v).transpose(0, 1).flatten(1)


def _head_major(rows: Tensor) -> Tensor:
    """[length, heads, head_dim] -> [heads, length, head_dim] float32, in memory of its own."""
    import torch

    length, num_heads, head_dim = rows.shape
    out = torch.empty((num_heads, length, head_dim), dtype=torch.float32, device=rows.device)
    return out.copy_(rows.transpose(0, 1))


def by_pair(products: Tensor) -> Tensor:
    """products [heads, length, 2 * length - 1], a column for each distance from 1 - length on -> a view [heads, length,
    length] whose element (a, b) is that of row a and distance b - a.
    """
    num_heads, length, num_distances = products.shape
    strides = (length * num_distances, num_distances - 1, 1)
    return products.as_strided((num_heads, length, length), strides, length - 1)
