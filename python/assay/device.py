"""Where a model runs: a value that is handed down from the caller to whatever makes or runs tensors."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

_FAULT_WORDS: Final = ("CUDA error", "cudaError")
"""How torch and our own launchers begin to say that the GPU failed; `cudaErrorMemoryAllocation` alone is no fault."""
_OUT_OF_MEMORY: Final = ("out of memory", "cudaErrorMemoryAllocation")


@dataclass(frozen=True, slots=True)
class Device:
    """The CPU, or one CUDA device with the functions that run there.

    kernels: a `CudaKernels`; None on the CPU, whose module `ops` calls itself. name, sm: of the card ("NVIDIA H100",
    90). memory_bytes: all of the card's memory. is_emulated: the kernels are compiled for the CPU and take CPU tensors;
    there are then no streams, graphs or pinned memory.
    """

    kind: Literal["cpu", "cuda"] = "cpu"
    index: int = 0
    kernels: Any = None
    name: str = ""
    sm: int = 0
    memory_bytes: int = 0
    is_emulated: bool = False

    @property
    def is_cuda(self) -> bool:
        return self.kind == "cuda"

    @property
    def has_streams(self) -> bool:
        """Whether work is asynchronous, so that there is something to capture and to wait for."""
        return self.is_cuda and not self.is_emulated

    @property
    def torch_device(self) -> str:
        """Where torch puts the tensors."""
        return f"cuda:{self.index}" if self.has_streams else "cpu"

    def __str__(self) -> str:
        if not self.is_cuda:
            return "cpu"
        return "emulated cuda" if self.is_emulated else f"cuda:{self.index} ({self.name}, sm_{self.sm})"

    @contextmanager
    def in_use(self, stream: Any = None) -> Iterator[None]:
        """Torch's current device, and its current stream where one is given; both belong to the calling thread."""
        if not self.has_streams:
            yield
            return
        import torch

        with torch.cuda.device(self.index), torch.cuda.stream(stream):
            yield


CPU: Final = Device()

DEFAULT_MEMORY_UTILIZATION: Final = 0.92


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model runs, and how. memory_utilization: the share of the card's memory it may take at most."""

    device: Device = CPU
    enforce_eager: bool = False
    memory_utilization: float = DEFAULT_MEMORY_UTILIZATION


def is_fault(err: BaseException) -> bool:
    """Whether an exception says that the GPU failed, other than by running out of memory."""
    words = str(err)
    if not isinstance(err, RuntimeError) or any(part in words for part in _OUT_OF_MEMORY):
        return False
    return type(err).__name__ == "AcceleratorError" or any(part in words for part in _FAULT_WORDS)


ON_CPU: Final = Placement()
