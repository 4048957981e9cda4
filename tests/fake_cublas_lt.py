"""The stand-in for cuBLASLt that csrc/cuda/emulation builds, and its switches."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

import cuda_devices
import emulated_modules

PATH = emulated_modules.BUILD / "libassay_fake_cublas_lt.so"
BEHAVIOURS = (
    "invariant",
    "order_by_rows",
    "order_by_place",
    "refuses_few_rows",
    "splits_depth",
    "wants_workspace",
    "forgets_last_row",
)
"""What its algorithms do, in the order of their numbers."""


class FakeCublasLt:
    """The library, loaded twice: by the module under test and here."""

    def __init__(self) -> None:
        self.switches = ctypes.CDLL(str(PATH))
        self.switches.fake_cublas_lt_num_heuristics.restype = ctypes.c_int64

    def suggest(self, *behaviours: str) -> None:
        """What it answers when asked for algorithms."""
        numbers = [BEHAVIOURS.index(behaviour) for behaviour in behaviours]
        self.switches.fake_cublas_lt_suggest((ctypes.c_uint64 * len(numbers))(*numbers), len(numbers))

    def num_heuristics(self) -> int:
        """Times it was asked since `suggest`."""
        return int(self.switches.fake_cublas_lt_num_heuristics())

    def open(self, workspace_size: int = 1024) -> Any:
        """The emulated module's view of it."""
        block = torch.empty(workspace_size + 256, dtype=torch.uint8)
        start = -block.data_ptr() % 256
        return cuda_devices.EMULATION.open_cublas_lt(block[start : start + workspace_size], [str(PATH)])
