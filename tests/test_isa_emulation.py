"""The emulated AVX-512 paths against the instructions themselves, on a machine that has them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import cpu_isas
from assay import ops

EMULATED = {"avx512", "avx512_bf16"}


def both(isa: str, compute: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
    """`compute` on the installed module and on the emulation; skips where one of them cannot."""
    emulated = cpu_isas.emulation()
    if isa not in cpu_isas.OWN.testable_isas() or emulated is None:
        pytest.skip(f"needs a machine with {isa}, and the emulated module (make emulation)")
    results = []
    for module in (cpu_isas.OWN, emulated):
        with cpu_isas.active(module, isa):
            results.append(compute())
    return results


def test_emulation_has_every_path_that_is_not_plain() -> None:
    emulated = cpu_isas.emulation()
    if emulated is None:
        pytest.skip("the emulated module was not built (make emulation)")
    assert emulated.available_isas() == ["scalar"]
    assert emulated.active_isa() == "scalar"  # an emulated path is never chosen by itself
    assert emulated.testable_isas() == ["scalar", "avx512", "avx512_bf16", "amx_emulated"]
    assert EMULATED <= set(cpu_isas.testable())


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", sorted(EMULATED))
def test_products_have_the_hardware_s_bits(name: str, arithmetic: str) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(53, 200), torch.randn(70, 200), torch.randn(70)

    def compute() -> torch.Tensor:
        return ops.linear(x, ops.pack_weight(weight, bias, arithmetic), activation="gelu")

    hardware, emulated = both(name, compute)
    if name == "avx512_bf16" and arithmetic == "bfloat16":
        # Makers differ in how VDPBF16PS rounds between its two products.
        torch.testing.assert_close(emulated, hardware, rtol=1e-5, atol=1e-4)
    else:
        assert torch.equal(emulated, hardware)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(EMULATED))
def test_attention_has_the_hardware_s_bits(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(150, 4, 40).to(dtype) for _ in range(3))
    cu_seqlens = torch.tensor([0, 1, 34, 150], dtype=torch.int32)

    def compute() -> torch.Tensor:
        return ops.attention_varlen(q, k, v, cu_seqlens, 116, is_causal=True).float()

    hardware, emulated = both(name, compute)
    if name == "avx512_bf16" and dtype == torch.bfloat16:
        torch.testing.assert_close(emulated, hardware, rtol=1e-2, atol=1e-2)
    else:
        assert torch.equal(emulated, hardware)
