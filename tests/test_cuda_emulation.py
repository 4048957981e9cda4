"""The emulation of CUDA that kernels are tested in: right where they are right, and loud where they are wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import cuda_devices
import reference

pytestmark = cuda_devices.needs_emulation
EMULATION: Any = cuda_devices.EMULATION

LAUNCHES = 4
"""The order of threads and the moment of copies change from launch to launch: enough of them see every combination."""


def multiply(a: torch.Tensor, b: torch.Tensor, **how: bool) -> torch.Tensor:
    c = reference.poisoned(16, 8)
    is_bfloat16 = a.dtype == torch.bfloat16
    EMULATION.self_test_multiply(a=a.data_ptr(), b=b.data_ptr(), c=c.data_ptr(), is_bfloat16=is_bfloat16, **how)
    return c


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_emulated_fragments_make_a_product(dtype: torch.dtype, is_transposed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(16, 16, generator=generator).to(dtype)
    b = torch.randn(16, 8, generator=generator).to(dtype)
    exact = a.double() @ b.double()
    given = b.T.contiguous() if is_transposed else b
    for _ in range(LAUNCHES):
        c = multiply(a, given, is_transposed=is_transposed)
        assert reference.max_err(c, exact) <= 16 * reference.ROUNDING * exact.abs().max()


def test_emulated_copy_without_a_wait_shows_poison() -> None:
    a, b = torch.ones(16, 16, dtype=torch.float16), torch.ones(16, 8, dtype=torch.float16)
    results = [multiply(a, b, is_transposed=False, waits=False) for _ in range(LAUNCHES)]
    assert any(c.isnan().any() for c in results)


@pytest.mark.parametrize("size", [32, 33, 64, 256])
def test_emulated_barrier_orders_shared_memory(size: int) -> None:
    x = torch.randn(size)
    for _ in range(LAUNCHES):
        out = reference.poisoned(size)
        EMULATION.self_test_reverse(x=x.data_ptr(), out=out.data_ptr(), size=size, has_barrier=True)
        assert torch.equal(out, x.flip(0))
        EMULATION.self_test_reverse(x=x.data_ptr(), out=out.data_ptr(), size=size, has_barrier=False)
        assert out.isnan().any()


def test_emulated_shuffles_move_values() -> None:
    x = torch.randn(32)
    out = reference.poisoned(5, 32)
    EMULATION.self_test_shuffle(x=x.data_ptr(), out=out.data_ptr())
    lane = torch.arange(32)
    assert torch.equal(out[0], x[lane ^ 5])
    assert torch.equal(out[1], x[lane // 8 * 8 + 3])
    assert torch.equal(out[2], x[torch.where(lane % 16 >= 2, lane - 2, lane)])
    assert torch.equal(out[3], x[torch.where(lane % 16 < 14, lane + 2, lane)])
    assert torch.equal(out[4], torch.full((32,), float((x > 0).sum())))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("lost thread", r"block \(0, 0, 0\) is stuck; thread .* waits at the barrier in csrc/.*lost_thread_kernel"),
        ("split barrier", r"is at the barrier in csrc/.* while thread .* waits at the one in csrc/"),
        ("diverged warp", r"of its mask is in another one in csrc/.*diverged_kernel"),
        ("overflow", r"wrote past its 64 bytes of dynamic shared memory"),
        ("too many threads", r"a block of \(1025, 1, 1\) threads is not 1 to 1024"),
        ("empty grid", r"a grid of \(0, 1, 1\) blocks is outside CUDA's limits"),
    ],
)
def test_emulation_names_the_mistake(fault: str, message: str) -> None:
    for _ in range(LAUNCHES):
        with pytest.raises(RuntimeError, match=r"kernel launched at csrc/cuda/emulation/self_test.cu:\d+ .*" + message):
            EMULATION.self_test_fault(fault)
    # And the next launch is none the worse for it.
    test_emulated_shuffles_move_values()
