"""Fixtures that every kernel test uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

import cpu_isas
from assay import ops

if TYPE_CHECKING:
    from fake_cublas_lt import FakeCublasLt


def pytest_configure(config: pytest.Config) -> None:
    """Beside other workers torch keeps to one thread: its threads wait on their feet, on cores the workers share."""
    if hasattr(config, "workerinput"):
        torch.set_num_threads(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `isa` runs once per instruction set, those that this machine lacks in the emulation."""
    if "isa" in metafunc.fixturenames:
        is_of_kernels = metafunc.module.__name__.startswith("test_kernels")
        isas = cpu_isas.testable() if is_of_kernels else cpu_isas.testable_on_models()
        metafunc.parametrize("isa", isas, indirect=True)


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The instruction set in use for this test; the one before comes back after it."""
    with cpu_isas.active(cpu_isas.module_of(request.param), request.param):
        yield request.param


@pytest.fixture
def restore_threads() -> Iterator[None]:
    """For tests that call set_num_threads."""
    before = ops.num_threads()
    yield
    ops.set_num_threads(before)


@pytest.fixture
def fake_cublas_lt(monkeypatch: pytest.MonkeyPatch) -> FakeCublasLt:
    """The library's stand-in, with ASSAY_CUDA_GEMM unset; for tests that need the emulation."""
    from fake_cublas_lt import FakeCublasLt

    monkeypatch.delenv("ASSAY_CUDA_GEMM", raising=False)
    return FakeCublasLt()
