"""The device that was asked for, ready to use, or why it cannot be had."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any, Final

from assay import ops
from assay.cuda_kernels import CudaKernels
from assay.device import CPU, Device
from assay.errors import ConfigError, DeviceError

logger = logging.getLogger(__name__)

MIN_SM: Final = 80


@dataclass(frozen=True, slots=True)
class Card:
    """One NVIDIA GPU. sm: its compute capability, 90 for 9.0."""

    name: str
    sm: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class CudaFacts:
    """What was found. torch_cuda: the CUDA version torch was built with, None for a build without."""

    has_module: bool
    torch_cuda: str | None
    cards: tuple[Card, ...] = ()

    def problem(self, index: int = 0) -> str | None:
        """Why device `index` cannot be used; None where it can."""
        if not self.has_module:
            return "this installation has no CUDA module: it was built where no nvcc was found (see docs/gpu.md)"
        if self.torch_cuda is None:
            return "this torch is a build for the CPU: install a CUDA build of torch"
        if not self.cards:
            return "no NVIDIA driver or no GPU was found"
        if index >= len(self.cards):
            last = len(self.cards) - 1
            return f"there is no device {index}: the GPUs of this machine are 0{f' to {last}' if last else ''}"
        card = self.cards[index]
        if card.sm < MIN_SM:
            return f"{card.name} has compute capability sm_{card.sm}; sm_{MIN_SM} or newer is needed"
        return None


def find_cuda() -> CudaFacts:
    """Look for the module, torch's CUDA and the cards; starts CUDA in this process where there is a card."""
    module = ops.cuda_module()
    if module is None:
        return CudaFacts(has_module=False, torch_cuda=None)
    import torch

    version = torch.version.cuda
    if version is None or not torch.cuda.is_available():
        return CudaFacts(True, version)
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    cards = [Card(each.name, each.major * 10 + each.minor, each.total_memory) for each in found]
    return CudaFacts(True, version, tuple(cards))


def launch_error(device: Device) -> str | None:
    """What goes wrong with one small kernel: a build may have no code for a card. None where nothing does."""
    import torch

    place = device.torch_device
    try:
        with device.in_use():
            rows = torch.ones((1, 8), device=place)
            ends = torch.tensor([0, 1], dtype=torch.int32, device=place)
            return None if torch.equal(ops.pool(rows, ends, "cls", device=device), rows) else "a kernel ran wrongly"
    except RuntimeError as err:
        return str(err)


def choose_device(asked: Any, facts: CudaFacts | None = None) -> Device:
    """The device of "auto" (or None), "cpu", "cuda", "cuda:N" or a torch.device; a `Device` is taken as it is.

    "auto" is the first GPU where there is one that can be used; where not, the CPU, and the log says why. Raises
    ConfigError for a name that is none, DeviceError with the reason for a GPU that cannot be used.
    """
    if isinstance(asked, Device):
        return asked
    name = "auto" if asked is None else str(asked)
    if name == "cpu":
        return CPU
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None and name != "auto":
        raise ConfigError(f"device={asked!r} is not supported: use 'auto', 'cpu', 'cuda' or 'cuda:N'")
    index = 0 if match is None or match[1] is None else int(match[1])
    device, problem = _cuda_device(facts or find_cuda(), index)
    if device is not None:
        return device
    if match is not None:
        raise DeviceError(f"device={name!r} cannot be used: {problem}")
    logger.info("device='auto' is the CPU: %s", problem)
    return CPU


def _cuda_device(facts: CudaFacts, index: int) -> tuple[Device | None, str | None]:
    """The device, or why there is none."""
    problem, module = facts.problem(index), ops.cuda_module()
    if problem is not None or module is None:
        return None, problem
    card = facts.cards[index]
    device = Device("cuda", index, CudaKernels(module, f"cuda:{index}"), card.name, card.sm, card.memory_bytes)
    problem = launch_error(device)
    return (device, None) if problem is None else (None, f"{card.name}: {problem}")
