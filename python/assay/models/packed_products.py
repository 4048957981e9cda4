"""What keeps a row's bits independent of other rows where torch computes: our products, whole vectors, one thread."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from assay.device import CPU
from assay.layers import Linear, float32, in_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor

    from assay.device import Device

_CUDA_ROWS = 32
"""On a GPU torch splits a sum along a row among threads by how many rows there are, up to so many."""


def pack_products(module: Any, arithmetic: str, device: Device = CPU) -> None:
    """Let every linear layer in `module` compute by our kernel, and free its weight."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    for part in module.modules():
        if type(part) not in (nn.Linear, Conv1D):
            continue
        weight = part.weight.detach() if type(part) is nn.Linear else part.weight.detach().T
        bias = None if part.bias is None else float32(part.bias.detach())
        linear = Linear.pack(in_dtype(weight, arithmetic), bias, arithmetic, device)
        part.forward = functools.partial(product, linear)
        part.weight, part.bias = None, None


def product(linear: Linear, hidden_states: Tensor) -> Tensor:
    """[..., in_features] -> [..., out_features], both in one dtype."""
    rows = hidden_states.reshape(-1, linear.in_features).contiguous()
    out = rows.new_empty((len(rows), linear.out_features))
    return linear(rows, out=out).view(*hidden_states.shape[:-1], linear.out_features)


def lanes(dtype: torch.dtype, *, is_cuda: bool = False) -> int:
    """How many numbers of `dtype` torch's element-wise loops take at a time on the CPU: two vectors.

    They compute the last few numbers of a tensor by other code than the rest, with other bits. A tensor with a multiple
    of so many rows has no such rest, whatever its width: which bits a row gets depends on the row alone.
    """
    import torch

    if is_cuda:
        return _CUDA_ROWS
    vector_size = 64 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 32  # bytes
    return 2 * vector_size // dtype.itemsize


@contextmanager
def one_thread() -> Iterator[None]:
    """torch's own loops on one thread: the shares of several would end within a vector. Our kernels keep theirs."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
