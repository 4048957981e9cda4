"""One call of a layer of `reference_layer`, on random rows, with poisoned memory wherever it may write."""

from __future__ import annotations

import torch
from torch import Tensor

import reference
from assay.batch import RaggedBatch
from reference_layer import Layer


def make_input(lengths: list[int], hidden: int) -> Tensor:
    return torch.randn(sum(lengths), hidden, generator=torch.Generator().manual_seed(4))


def make_batch(lengths: list[int]) -> RaggedBatch:
    """Positions that are neither indices nor start at 0."""
    position_ids = torch.cat([torch.arange(length) * 3 + 5 for length in lengths]).int()
    return RaggedBatch(
        input_ids=torch.zeros_like(position_ids),
        position_ids=position_ids,
        token_type_ids=None,
        cu_seqlens=reference.cu_seqlens(lengths),
        max_seqlen=max(lengths),
        num_tokens=sum(lengths),
        num_seqs=len(lengths),
    )


def aligned_bytes(size: int) -> Tensor:
    block = torch.full((size + 64,), 0xFF, dtype=torch.uint8)  # poisoned: all NaN as float32
    start = -block.data_ptr() % 64
    return block[start : start + size]


def run(layer: Layer, hidden_states: Tensor, lengths: list[int], rows: Tensor | None = None) -> Tensor:
    batch = make_batch(lengths)
    workspace = aligned_bytes(layer.layer.workspace_size(batch.num_tokens, batch.num_seqs))
    rows_out = None if rows is None else reference.poisoned(len(lengths), layer.config.hidden)
    x = hidden_states.clone()
    out = layer.layer(x, batch, workspace, cos=layer.cos, sin=layer.sin, rows=rows, rows_out=rows_out)
    assert out is (x if rows is None else rows_out)
    assert rows is None or torch.equal(x.view(torch.int32), hidden_states.view(torch.int32))  # NaN too
    return out
