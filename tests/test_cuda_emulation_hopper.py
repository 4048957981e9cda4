"""The emulation of sm_90's barriers, tensor copies and warpgroup products: right, and loud where a kernel is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import cuda_devices
import reference

pytestmark = cuda_devices.needs_emulation
EMULATION: Any = cuda_devices.EMULATION

LAUNCHES = 4
"""The moment of copies and products changes from launch to launch: enough of them see every one."""


def multiply(fault: str, dtype: torch.dtype = torch.float16, num_rows: int = 128) -> tuple[float, float]:
    """The errors of both products, over what is expected of one rounding of the first; NaN where there is NaN."""
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(rows, 64, generator=generator).to(dtype) for rows in (64, num_rows, num_rows))
    products, sums = reference.poisoned(64, 128), reference.poisoned(64, 64)
    EMULATION.self_test_warpgroup(
        a=a.data_ptr(),
        b=b.data_ptr(),
        c=c.data_ptr(),
        num_rows=num_rows,
        products=products.data_ptr(),
        sums=sums.data_ptr(),
        is_bfloat16=dtype == torch.bfloat16,
        fault=fault,
    )
    rows = torch.zeros(2, 128, 64, dtype=torch.float64)
    rows[0, :num_rows], rows[1, :num_rows] = b, c
    if fault in ("written", "no memory fence"):
        rows[1, 64:] = 0
    exact = a.double() @ rows[0].T
    return reference.max_err(products, exact), reference.max_err(sums, products.to(dtype).double() @ rows[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [128, 100, 1])
@pytest.mark.parametrize("fault", ["none", "written"])
def test_emulated_warpgroups_multiply(dtype: torch.dtype, num_rows: int, fault: str) -> None:
    """Rows that are not there are zeros; those that threads have written are seen after their fence."""
    for _ in range(LAUNCHES):
        first, second = multiply(fault, dtype, num_rows)
        # float32 sums of 64 terms of up to 20, then of 128 of up to 200.
        assert first <= 64 * 20 * reference.ROUNDING
        assert second <= 128 * 200 * reference.ROUNDING


@pytest.mark.parametrize("fault", ["no copy wait", "no product wait", "no memory fence", "few bytes"])
def test_emulated_work_that_nobody_waits_for_shows(fault: str) -> None:
    """On some launch: numbers that are wrong, or an error of the launch."""
    seen = False
    for _ in range(LAUNCHES):
        try:
            first, second = multiply(fault)
            seen = seen or not (first <= 1e-3 and second <= 1e-2)
        except RuntimeError:
            seen = True
    assert seen


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no init", "uses a barrier that was not initialised"),
        ("no init fence", "copies with a barrier that no fence has shown to copies"),
        ("next phase", "is stuck; thread .* waits at the barrier's phase"),
        ("no product fence", "starts a wgmma without a wgmma.fence since the last wait"),
        ("other descriptors", "gives another matrix descriptor than another warp of its warpgroup"),
        ("far descriptor", "gives a matrix descriptor that leads outside dynamic shared memory"),
        ("no last wait", "a warp returns with a wgmma that nobody waited for"),
    ],
)
def test_emulation_names_the_mistake_of_a_warpgroup(fault: str, message: str) -> None:
    for _ in range(LAUNCHES):
        with pytest.raises(
            RuntimeError, match=r"kernel launched at csrc/cuda/emulation/self_test_hopper.cu.*" + message
        ):
            multiply(fault)
    assert multiply("none")[0] < 1e-3
