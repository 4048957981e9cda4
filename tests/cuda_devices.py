"""Where tests of the CUDA kernels run: emulated on a CPU, where that was built, and on a GPU, where there is one.

`pytest.mark.parametrize("device", cuda_devices.DEVICES)` gives a test a `Device`.
The emulation is slow: small shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import emulated_modules
from assay import ops

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@dataclass(frozen=True)
class Device:
    """A build of the CUDA module, and the torch device whose memory it takes."""

    name: str
    module: Any
    torch_device: str

    def stream(self) -> int:
        """The stream to launch on, as the module takes it."""
        return int(torch.cuda.current_stream().cuda_stream) if self.torch_device == "cuda" else 0

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.torch_device)


def address(tensor: torch.Tensor | None) -> int:
    """What the module takes for a tensor; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def dtype_name(dtype: torch.dtype) -> str:
    """What the module calls it."""
    return str(dtype).removeprefix("torch.")


def rounding(dtype: torch.dtype, exact: torch.Tensor) -> float:
    """What storing the result in `dtype` may add to its error: one rounding of its largest value."""
    if dtype == torch.float32 or exact.numel() == 0:
        return 0.0
    return float(torch.finfo(dtype).eps) / 2 * max(1.0, float(exact.abs().max()))


EMULATION: Any = emulated_modules.load("_cuda_emulated")
CUDA: Any = ops.cuda_module()

has_gpu = CUDA is not None and CUDA.device_count() > 0 and torch.cuda.is_available()

needs_emulation = pytest.mark.skipif(
    EMULATION is None, reason="the emulated CUDA module was not built (make emulation; it needs CUDA headers)"
)

DEVICES = [pytest.param(Device("emulated", EMULATION, "cpu"), id="emulated", marks=needs_emulation)]
MODULES = [pytest.param(EMULATION, id="emulated", marks=needs_emulation)]
"""For checks that launch nothing: the real module refuses wrong arguments without a GPU too."""
if has_gpu:
    DEVICES.append(pytest.param(Device("gpu", CUDA, "cuda"), id="gpu"))
if CUDA is not None:
    MODULES.append(pytest.param(CUDA, id="cuda"))
