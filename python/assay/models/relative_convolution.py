"""A convolution over tokens as one product of each token with its neighbours, none of them beyond its own sequence."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from assay.device import CPU
from assay.layers import Linear, float32, in_dtype
from assay.models.packed_products import product

if TYPE_CHECKING:
    from torch import Tensor

    from assay.batch import RaggedBatch
    from assay.device import Device
    from assay.models.packed_attention import PackedSequences


def is_packable(module: Any) -> bool:
    """Whether an nn.Conv1d is one product of as many tokens to the left as to the right."""
    return bool(module.groups == 1 and module.kernel_size[0] % 2 == 1)


def pack_convolution(module: Any, sequences: PackedSequences, arithmetic: str, device: Device = CPU) -> None:
    """Let such an nn.Conv1d compute by our product, and free its weight."""
    weight, kernel_size = module.weight.detach().transpose(1, 2).flatten(1), module.kernel_size[0]
    linear = Linear.pack(in_dtype(weight, arithmetic), float32(module.bias.detach()), arithmetic, device)
    module.forward = functools.partial(_forward, linear, sequences, kernel_size // 2)
    module.weight, module.bias = None, None


def _forward(linear: Linear, sequences: PackedSequences, reach: int, channels: Tensor) -> Tensor:
    """channels [1, hidden_size, num_tokens] -> the same shape."""
    assert sequences.batch is not None
    rows = with_neighbours(channels[0].T, sequences.batch, reach)
    return product(linear, rows).T.unsqueeze(0)


def with_neighbours(rows: Tensor, batch: RaggedBatch, reach: int) -> Tensor:
    """rows [num_tokens, width] -> [num_tokens, (2 * reach + 1) * width]: those up to `reach` tokens away in the same
    sequence side by side, zeros for those outside.
    """
    import torch

    lengths = torch.tensor(batch.seqlens(), device=rows.device)
    sequence = torch.repeat_interleave(torch.arange(len(lengths), device=rows.device), lengths)
    parts = []
    for offset in range(-reach, reach + 1):
        there = torch.arange(len(rows), device=rows.device) + offset
        inside = there.clamp(0, len(rows) - 1)
        is_seen = (inside == there) & (sequence[inside] == sequence)
        parts.append(rows[inside].masked_fill(~is_seen.unsqueeze(1), 0))
    return torch.cat(parts, dim=1)
