"""pytest -p interpreted_plugin: the tests use the CPU module on an interpreted CPU, of the model that CPU_MODEL names.

`make interpreted` runs the kernel tests so. One process, one thread: what asks for more threads is skipped.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

import interpreted_cpu
from assay import ops

interpreted_cpu.install(os.environ.get("CPU_MODEL", "sapphire_rapids"))
MODULE: Any = ops.cpu_module()
SET_NUM_THREADS = MODULE.set_num_threads


def set_num_threads(num_threads: int) -> None:
    if num_threads > 1:
        pytest.skip("an interpreted CPU runs one thread")
    SET_NUM_THREADS(num_threads)


MODULE.set_num_threads = set_num_threads
