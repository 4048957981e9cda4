"""Which device a model runs on: what may be asked for, and the reason where it cannot be had."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from assay import LLM
from assay.cuda_kernels import CudaKernels
from assay.device import CPU, Device, is_fault
from assay.device_choice import Card, CudaFacts, choose_device, find_cuda, launch_error
from assay.errors import ConfigError, DeviceError

H100 = Card("NVIDIA H100", 90, 80 << 30)
T4 = Card("Tesla T4", 75, 15 << 30)

REASONS = [
    (CudaFacts(False, "13.0", (H100,)), 0, "has no CUDA module"),
    (CudaFacts(True, None), 0, "torch is a build for the CPU"),
    (CudaFacts(True, "13.0"), 0, "no NVIDIA driver or no GPU was found"),
    (CudaFacts(True, "13.0", (H100,)), 1, "there is no device 1: the GPUs of this machine are 0$"),
    (CudaFacts(True, "13.0", (H100, H100)), 7, "there is no device 7: the GPUs of this machine are 0 to 1$"),
    (CudaFacts(True, "13.0", (T4,)), 0, "Tesla T4 has compute capability sm_75; sm_80 or newer is needed"),
]


@pytest.mark.parametrize(("facts", "index", "reason"), REASONS)
def test_a_gpu_that_cannot_be_used_is_an_error_with_the_reason(facts: CudaFacts, index: int, reason: str) -> None:
    with pytest.raises(DeviceError, match=f"^device='cuda:{index}' cannot be used: .*{reason}"):
        choose_device(f"cuda:{index}", facts)


@pytest.mark.parametrize(("facts", "reason"), [(facts, reason) for facts, index, reason in REASONS if index == 0])
@pytest.mark.parametrize("asked", ["auto", None])
def test_auto_is_the_cpu_and_says_why_once(
    facts: CudaFacts, reason: str, asked: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "assay"):
        assert choose_device(asked, facts) is CPU
    (line,) = [record.message for record in caplog.records]
    assert line.startswith("device='auto' is the CPU: ") and reason in line


def test_a_usable_card_has_no_problem() -> None:
    assert CudaFacts(True, "13.0", (T4, H100)).problem(1) is None


@pytest.mark.parametrize("asked", ["gpu", "cuda:", "cuda:-1", "cuda:x", "xpu", 0, True, "cpu:0 "])
def test_names_that_are_none_are_refused(asked: Any) -> None:
    with pytest.raises(ConfigError, match="use 'auto', 'cpu', 'cuda' or 'cuda:N'"):
        choose_device(asked)


@pytest.mark.parametrize("asked", ["cpu", torch.device("cpu"), CPU])
def test_the_cpu_needs_no_reason(asked: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert choose_device(asked) is CPU
    assert caplog.records == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_the_llm_says_so_before_it_looks_for_the_model() -> None:
    problem = find_cuda().problem()
    assert problem is not None
    with pytest.raises(DeviceError, match="device='cuda' cannot be used"):
        LLM("no-such-folder/anywhere", device="cuda")


def test_a_build_without_code_for_the_card_is_found_out() -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("launch of pool: cudaErrorNoKernelImageForDevice (this build has code for sm 80 90)")

    kernels = CudaKernels(SimpleNamespace(pool=refuse), "cpu")  # type: ignore[arg-type]
    error = launch_error(Device("cuda", kernels=kernels, is_emulated=True))
    assert error is not None and "this build has code for sm 80 90" in error
    idle = CudaKernels(SimpleNamespace(pool=lambda **_: None), "cpu")  # type: ignore[arg-type]
    assert launch_error(Device("cuda", kernels=idle, is_emulated=True)) == "a kernel ran wrongly"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"gpu_memory_utilization": 0}, "gpu_memory_utilization must be above 0 and at most 1, got 0"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization must be above 0 and at most 1, got 1.5"),
        ({"enforce_eager": "yes"}, "enforce_eager must be True or False, got 'yes'"),
        ({"device": "tpu"}, "device='tpu' is not supported"),
    ],
)
def test_settings_of_a_gpu_are_checked(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LLM("no-such-folder/anywhere", **keywords)


def test_int8_is_for_the_cpu() -> None:
    device = Device("cuda", is_emulated=True)
    with pytest.raises(ConfigError, match="quantization='int8' is for the CPU: leave it out on emulated cuda"):
        LLM("no-such-folder/anywhere", device=device, quantization="int8")


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("head.cu:9: launch of x: cudaErrorIllegalAddress: an illegal memory access"), True),
        (RuntimeError("x: cudaErrorMemoryAllocation: out of memory"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (RuntimeError("CUDA error: out of memory"), False),
        (RuntimeError("shape mismatch"), False),
        (ValueError("CUDA error: not a RuntimeError"), False),
    ],
)
def test_faults_are_told_from_other_errors(error: Exception, fault: bool) -> None:
    assert is_fault(error) is fault
