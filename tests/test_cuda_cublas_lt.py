"""The choice between cuBLASLt and our own products: a fake library on the CPU with right and wrong algorithms, the real
one on a GPU."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import cuda_devices
import emulated_modules
import reference
from fake_cublas_lt import BEHAVIOURS, PATH, FakeCublasLt

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
EMULATION: Any = cuda_devices.EMULATION
CUDA: Any = cuda_devices.CUDA
needs_gpu = pytest.mark.skipif(not cuda_devices.has_gpu, reason="needs the CUDA module and a GPU")


def make_weight(
    module: Any, out: int, depth: int, dtype: torch.dtype, *, is_gated: bool = False, device: str = "cpu"
) -> tuple[Any, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    rows = 2 * out if is_gated else out
    weight = (torch.randn(rows, depth, generator=generator) / math.sqrt(depth)).to(dtype).to(device)
    bias = torch.randn(rows, generator=generator).to(dtype).float().to(device)
    return module.Weight(weight, bias, is_gated), weight, bias


def multiply(product: Any, x: Tensor, out_features: int, stream: int = 0) -> Tensor:
    out = torch.full((len(x), out_features), math.nan, dtype=x.dtype, device=x.device)
    scratch = torch.full((product.scratch_size(len(x)),), 0xFF, dtype=torch.uint8, device=x.device)
    product.multiply(x, out, scratch, stream)
    return out


@cuda_devices.needs_emulation
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", BEHAVIOURS[1:])
def test_chooser_takes_the_first_algorithm_that_proves_invariant(
    fake_cublas_lt: FakeCublasLt, dtype: torch.dtype, bad: str
) -> None:
    fake_cublas_lt.suggest(bad, "invariant")
    weight, _, _ = make_weight(EMULATION, 16, 32, dtype)
    product = EMULATION.Product(weight, "none", fake_cublas_lt.open(), 0)
    assert product.name == "cublaslt 130000 algorithm 0 tile 0 stages 0"


@cuda_devices.needs_emulation
@pytest.mark.parametrize("bad", BEHAVIOURS[1:])
def test_chooser_falls_back_to_our_kernel_or_says_so(
    fake_cublas_lt: FakeCublasLt, bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cublas_lt.suggest(bad)
    weight, _, _ = make_weight(EMULATION, 16, 32, torch.float16)
    assert EMULATION.Product(weight, "none", fake_cublas_lt.open(), 0).name == "own"
    monkeypatch.setenv("ASSAY_CUDA_GEMM", "cublaslt")
    with pytest.raises(RuntimeError, match=r"no batch-invariant algorithm for a weight \[16, 32\]"):
        EMULATION.Product(weight, "none", fake_cublas_lt.open(), 0)


@cuda_devices.needs_emulation
def test_chooser_decides_once_a_shape(fake_cublas_lt: FakeCublasLt) -> None:
    fake_cublas_lt.suggest("order_by_rows", "invariant")
    library = fake_cublas_lt.open()
    names = [
        EMULATION.Product(make_weight(EMULATION, 16, 32, torch.float16)[0], activation, library, 0).name
        for activation in ("none", "none", "relu", "relu")
    ]
    assert set(names) == {"cublaslt 130000 algorithm 0 tile 0 stages 0"}
    assert fake_cublas_lt.num_heuristics() == 2
    EMULATION.Product(make_weight(EMULATION, 24, 32, torch.float16)[0], "none", library, 0)
    assert fake_cublas_lt.num_heuristics() == 3


@cuda_devices.needs_emulation
@pytest.mark.parametrize("activation", ["gelu", "silu", "tanh"])
def test_products_without_an_epilogue_stay_ours(fake_cublas_lt: FakeCublasLt, activation: str) -> None:
    fake_cublas_lt.suggest("invariant")
    weight, _, _ = make_weight(EMULATION, 16, 32, torch.float16)
    assert EMULATION.Product(weight, activation, fake_cublas_lt.open(), 0).name == "own"
    assert fake_cublas_lt.num_heuristics() == 0


@cuda_devices.needs_emulation
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("activation", "is_gated"), [("none", False), ("relu", False), ("gelu_tanh", False), ("silu", True), ("gelu", True)]
)
def test_library_product_matches_float64(
    fake_cublas_lt: FakeCublasLt, dtype: torch.dtype, activation: str, is_gated: bool
) -> None:
    fake_cublas_lt.suggest("invariant")
    bound, weight, bias = make_weight(EMULATION, 24, 40, dtype, is_gated=is_gated)
    product = EMULATION.Product(bound, activation, fake_cublas_lt.open(), 0)
    assert product.name.startswith("cublaslt")
    x = torch.randn(19, 40, generator=torch.Generator().manual_seed(5)).to(dtype)

    def plain(compute: torch.dtype) -> Tensor:
        wide = x.to(compute) @ weight.to(compute).T + bias.to(compute)
        if not is_gated:
            return reference.ACTIVATIONS[activation](wide)
        # The library stores both halves in the weight's dtype before they meet.
        gate, up = (wide if compute == torch.float64 else wide.to(dtype).to(compute)).chunk(2, dim=1)
        return reference.ACTIVATIONS[activation](gate) * up

    exact = plain(torch.float64)
    budget = reference.budget(plain(torch.float32).to(dtype), exact, 40)
    assert reference.max_err(multiply(product, x, 24), exact) <= budget
    assert torch.equal(multiply(product, x[3:4], 24)[0], multiply(product, x, 24)[3])


@cuda_devices.needs_emulation
def test_environment_chooses_the_products(fake_cublas_lt: FakeCublasLt, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cublas_lt.suggest("invariant")
    missing = str(emulated_modules.BUILD / "no_such_library.so")
    workspace = torch.empty(0, dtype=torch.uint8)
    assert fake_cublas_lt.open().version == 130000
    library = EMULATION.open_cublas_lt(workspace, [missing, str(PATH)])
    assert (library.version, library.failure) == (130000, "")
    library = EMULATION.open_cublas_lt(workspace, [missing])
    assert library.version is None
    assert "no_such_library.so" in library.failure
    weight, _, _ = make_weight(EMULATION, 16, 32, torch.float16)
    assert EMULATION.Product(weight, "none", library, 0).name == "own"
    monkeypatch.setenv("ASSAY_CUDA_GEMM", "own")
    library = fake_cublas_lt.open()
    assert (library.version, library.failure) == (None, "ASSAY_CUDA_GEMM=own")
    monkeypatch.setenv("ASSAY_CUDA_GEMM", "cublaslt")
    assert fake_cublas_lt.open().version == 130000
    with pytest.raises(RuntimeError, match=r"cuBLASLt cannot be used; .*no_such_library"):
        EMULATION.open_cublas_lt(workspace, [missing])
    monkeypatch.setenv("ASSAY_CUDA_GEMM", "cutlass")
    with pytest.raises(ValueError, match="ASSAY_CUDA_GEMM='cutlass': choose one of auto, own, cublaslt"):
        fake_cublas_lt.open()


@cuda_devices.needs_emulation
def test_a_library_that_is_not_cublas_lt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_CUDA_GEMM", "cublaslt")
    with pytest.raises(RuntimeError, match=r"libm\.so\.6: it has no cublasLtCreate"):
        EMULATION.open_cublas_lt(torch.empty(0, dtype=torch.uint8), ["libm.so.6"])


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("out", "depth"), [(1152, 384), (1024, 4096), (4096, 1024)])
def test_gpu_products_are_batch_invariant(
    dtype: torch.dtype, out: int, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the proof at load promises, at row counts it did not try."""
    monkeypatch.delenv("ASSAY_CUDA_GEMM", raising=False)
    stream = int(torch.cuda.current_stream().cuda_stream)
    library = CUDA.open_cublas_lt(torch.empty(32 << 20, dtype=torch.uint8, device="cuda"))
    bound, weight, bias = make_weight(CUDA, out, depth, dtype, device="cuda")
    for activation in ("none", "gelu_tanh"):
        product = CUDA.Product(bound, activation, library, stream)
        print(f"{dtype} [{out}, {depth}] {activation}: {product.name}")
        x = torch.randn(3000, depth, device="cuda").to(dtype)
        whole = multiply(product, x, out, stream)
        exact = reference.ACTIVATIONS[activation](x.double() @ weight.double().T + bias.double())
        base = reference.ACTIVATIONS[activation](x.float() @ weight.float().T + bias).to(dtype)
        assert reference.max_err(whole, exact) <= reference.budget(base, exact, depth)
        for first, last in [(0, 1), (5, 8), (100, 228), (17, 530), (1000, 2999)]:
            assert torch.equal(multiply(product, x[first:last], out, stream), whole[first:last])
