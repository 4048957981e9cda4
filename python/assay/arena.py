"""One block of memory for everything a forward pass writes, so that memory stays flat whatever the batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from assay.device import CPU
from assay.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from assay.device import Device

ALIGNMENT = 256
"""Bytes: four cache lines of a CPU, and what a GPU's matrix products want of their buffers."""


def aligned(size_bytes: int) -> int:
    """`size_bytes` rounded up to the alignment of the arena."""
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


class Arena:
    """A bump allocator: `take` hands out views, `reset` takes them all back."""

    def __init__(self, size_bytes: int, device: Device = CPU) -> None:
        import torch

        block = torch.empty(size_bytes + ALIGNMENT, dtype=torch.uint8, device=device.torch_device)
        start = -block.data_ptr() % ALIGNMENT
        self._block = block[start : start + size_bytes]
        self._typed: dict[torch.dtype, torch.Tensor] = {}
        self._used = 0
        self.high_water = 0

    @property
    def size_bytes(self) -> int:
        return self._block.numel()

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised contiguous tensor, valid until `reset`; raises ConfigError where the block is full."""
        size = math.prod(shape) * dtype.itemsize
        end = self._used + aligned(size)
        if end > self.size_bytes:
            raise ConfigError(
                f"the batch needs {end} bytes and the arena has {self.size_bytes}: "
                f"it is larger than max_batch_tokens or max_batch_size allows"
            )
        whole = self._typed.get(dtype)
        if whole is None:
            whole = self._typed[dtype] = self._block[: self.size_bytes // dtype.itemsize * dtype.itemsize].view(dtype)
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        # One view where slice, dtype and shape would be three: what lies around the kernels of a short text counts.
        view = whole.as_strided(shape, strides, whole.storage_offset() + self._used // dtype.itemsize)
        self._used = end
        self.high_water = max(self.high_water, end)
        return view

    def reset(self) -> None:
        """Take back every tensor handed out."""
        self._used = 0
