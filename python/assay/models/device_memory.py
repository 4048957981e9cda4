"""What a model takes of a card's memory: stated at start, and refused before it would pass the limit."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from assay.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assay.device import Placement

GIB: Final = 1 << 30
ITEM_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes a model holds on its device. buffers: staging, and the workspace of the matrix products."""

    weights: int
    arena: int
    buffers: int = 0
    graphs: int = 0
    num_graphs: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.arena + self.buffers + self.graphs

    def __str__(self) -> str:
        words = f"weights {_gib(self.weights)}, arena {_gib(self.arena)}, buffers {_gib(self.buffers)}"
        if self.num_graphs:
            words += f", {self.num_graphs} graphs {_gib(self.graphs)}"
        return words


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.2f} GiB" if size_bytes >= GIB // 100 else f"{size_bytes / (1 << 20):.1f} MiB"


class MemoryMeter:
    """Measures what a start puts on a device."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self.before = self._allocated()
        """Bytes that were there already; 0 where nobody counts them."""

    def _allocated(self) -> int:
        import torch

        device = self._placement.device
        return torch.cuda.memory_allocated(device.index) if device.has_streams else 0

    def settled_growth(self) -> int | None:
        """Bytes of tensors on the device that were not there at the start, after the allocator has given back the rest.

        None where nobody counts them.
        """
        import torch

        if not self._placement.device.has_streams:
            return None
        torch.cuda.empty_cache()
        return self._allocated() - self.before

    @property
    def limit(self) -> int | None:
        """Bytes the model may take; None where the size of the memory is unknown."""
        total = self._placement.device.memory_bytes
        return int(self._placement.memory_utilization * total) if total else None

    def check(self, memory: DeviceMemory, beside: int = 0) -> None:
        """Raise DeviceError where it is more than the limit, with the bytes it lies beside."""
        limit, device = self.limit, self._placement.device
        if limit is not None and memory.total + beside > limit:
            there = f" beside {_gib(beside)} that are in use" if beside else ""
            raise DeviceError(
                f"{device}: the model needs {_gib(memory.total)} ({memory}){there}, and gpu_memory_utilization="
                f"{self._placement.memory_utilization:g} allows {_gib(limit)} of {_gib(device.memory_bytes)}: "
                f"raise it, or lower max_batch_tokens"
            )

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Turn the allocator's error into a DeviceError that says what was being done."""
        import torch

        try:
            yield
        except torch.OutOfMemoryError as err:
            device = self._placement.device
            raise DeviceError(f"{device}: out of memory while the model was loaded: {err}") from err
