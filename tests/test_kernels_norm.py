"""`layer_norm` and `rms_norm` against float64: odd sizes, residuals, aliasing, offsets; bitwise batch invariance."""

from __future__ import annotations

import pytest
import torch

import reference
from assay import ops

SHAPES = [
    *((rows, 384) for rows in (0, 1, 2, 15, 16, 17, 33, 300)),
    *((5, hidden_size) for hidden_size in (1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 768, 1023, 4096)),
]


def make_case(num_rows: int, hidden_size: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    x, residual = (torch.randn(num_rows, hidden_size, generator=generator) * 3 for _ in range(2))
    weight, bias = (torch.randn(hidden_size, generator=generator) for _ in range(2))
    return x, residual, weight, bias


def doubles(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.double() for tensor in tensors]


@pytest.mark.parametrize(("num_rows", "hidden_size"), SHAPES)
def test_layer_norm_matches_float64(isa: str, num_rows: int, hidden_size: int) -> None:
    x, residual, weight, bias = make_case(num_rows, hidden_size)
    x64, residual64, weight64, bias64 = doubles(x, residual, weight, bias)
    for shift, shift64 in ((bias, bias64), (None, None)):
        for add, add64 in ((residual, residual64), (None, None)):
            out = reference.poisoned(num_rows, hidden_size)
            returned = ops.layer_norm(x, weight, shift, 1e-12, add, out=out)
            assert returned is out
            exact = reference.layer_norm(x64, weight64, shift64, 1e-12, add64)
            base = reference.layer_norm(x, weight, shift, 1e-12, add)
            assert reference.max_err(out, exact) <= reference.budget(base, exact)


def test_layer_norm_does_not_cancel(isa: str) -> None:
    """A mean a thousand times the spread: E[x^2] - mean^2 would lose all digits of the variance."""
    x, _, weight, bias = make_case(20, 384)
    x = x + 3000
    exact = reference.layer_norm(*doubles(x, weight, bias), 1e-12)
    base = reference.layer_norm(x, weight, bias, 1e-12)
    out = ops.layer_norm(x, weight, bias, 1e-12)
    assert reference.max_err(out, exact) <= reference.budget(base, exact)


def test_layer_norm_uses_epsilon(isa: str) -> None:
    weight, bias = torch.ones(70), torch.full((70,), 0.25)
    assert torch.equal(ops.layer_norm(torch.full((3, 70), 5.0), weight, bias, 1e-5), torch.full((3, 70), 0.25))
    x = make_case(3, 70)[0] * 1e-4
    exact = reference.layer_norm(*doubles(x, weight, bias), 1e-5)
    assert reference.max_err(ops.layer_norm(x, weight, bias, 1e-5), exact) <= 1e-6


@pytest.mark.parametrize("hidden_size", [40, 384])
def test_layer_norm_works_in_place(isa: str, hidden_size: int) -> None:
    x, residual, weight, bias = make_case(9, hidden_size)
    expected = ops.layer_norm(x, weight, bias, 1e-5, residual)
    for target in (0, 1):
        buffers = [x.clone(), residual.clone()]
        ops.layer_norm(buffers[0], weight, bias, 1e-5, buffers[1], out=buffers[target])
        assert torch.equal(buffers[target], expected)


@pytest.mark.parametrize("hidden_size", [100, 384])
def test_layer_norm_is_batch_invariant(isa: str, hidden_size: int, restore_threads: None) -> None:
    x, residual, weight, bias = make_case(700, hidden_size)
    ops.set_num_threads(1)
    whole = ops.layer_norm(x, weight, bias, 1e-12, residual)
    order = torch.randperm(700, generator=torch.Generator().manual_seed(1))
    for threads in (1, 2, 3):
        ops.set_num_threads(threads)
        assert torch.equal(ops.layer_norm(x, weight, bias, 1e-12, residual), whole)
        assert torch.equal(ops.layer_norm(x[order], weight, bias, 1e-12, residual[order]), whole[order])
        for first, last in [(0, 1), (7, 8), (3, 20), (699, 700)]:
            assert torch.equal(
                ops.layer_norm(x[first:last], weight, bias, 1e-12, residual[first:last]), whole[first:last]
            )


def test_layer_norm_keeps_a_bad_row_to_itself(isa: str) -> None:
    x, _, weight, bias = make_case(6, 75)
    clean = ops.layer_norm(x, weight, bias, 1e-5)
    x[1, 3], x[4, 74] = float("nan"), float("inf")
    out = ops.layer_norm(x, weight, bias, 1e-5)
    assert out[1].isnan().all()
    assert out[4].isnan().all()
    keep = [0, 2, 3, 5]
    assert torch.equal(out[keep], clean[keep])


def test_layer_norm_refuses_wrong_arguments() -> None:
    x, residual, weight, bias = make_case(4, 32)
    with pytest.raises(ValueError, match=r"weight must have shape \[32\], got \[31\]"):
        ops.layer_norm(x, weight[:31], bias, 1e-5)
    with pytest.raises(ValueError, match="weight must be float32, got bfloat16"):
        ops.layer_norm(x, weight.bfloat16(), bias, 1e-5)
    with pytest.raises(ValueError, match=r"residual must have shape \[4, 32\], got \[3, 32\]"):
        ops.layer_norm(x, weight, bias, 1e-5, residual[:3])
    with pytest.raises(ValueError, match="hidden_states must be contiguous, got stride 64 in dimension 0"):
        ops.layer_norm(torch.zeros(4, 64)[:, :32], weight, bias, 1e-5, out=torch.empty(4, 32))
    with pytest.raises(ValueError, match="hidden_states must be contiguous in its last dimension, got stride 4"):
        ops.layer_norm(torch.zeros(32, 4).T, weight, bias, 1e-5, out=torch.empty(4, 32))
    with pytest.raises(ValueError, match=r"hidden_states must be .*, got torch.float64"):
        ops.layer_norm(x.double(), weight, bias, 1e-5)


@pytest.mark.parametrize(("num_rows", "hidden_size"), SHAPES)
def test_rms_norm_matches_float64(isa: str, num_rows: int, hidden_size: int) -> None:
    x, _, weight, _ = make_case(num_rows, hidden_size)
    out = reference.poisoned(num_rows, hidden_size)
    assert ops.rms_norm(x, weight, 1e-6, out=out) is out
    exact = reference.rms_norm(*doubles(x, weight), 1e-6)
    base = reference.rms_norm(x, weight, 1e-6)
    assert reference.max_err(out, exact) <= reference.budget(base, exact)


def test_rms_norm_uses_epsilon(isa: str) -> None:
    x, _, weight, _ = make_case(3, 70)
    exact = reference.rms_norm(*doubles(x * 1e-4, weight), 1e-5)
    assert reference.max_err(ops.rms_norm(x * 1e-4, weight, 1e-5), exact) <= 1e-7
    assert torch.equal(ops.rms_norm(torch.zeros(2, 9), torch.ones(9), 1e-6), torch.zeros(2, 9))


@pytest.mark.parametrize("hidden_size", [100, 384])
def test_rms_norm_is_batch_invariant_and_works_in_place(isa: str, hidden_size: int, restore_threads: None) -> None:
    x, _, weight, _ = make_case(300, hidden_size)
    ops.set_num_threads(1)
    whole = ops.rms_norm(x, weight, 1e-6)
    for threads in (1, 2):
        ops.set_num_threads(threads)
        buffer = x.clone()
        ops.rms_norm(buffer, weight, 1e-6, out=buffer)
        assert torch.equal(buffer, whole)
        for first, last in [(0, 1), (7, 8), (3, 20)]:
            assert torch.equal(ops.rms_norm(x[first:last], weight, 1e-6), whole[first:last])


def test_rms_norm_keeps_a_bad_row_to_itself(isa: str) -> None:
    x, _, weight, _ = make_case(4, 75)
    clean = ops.rms_norm(x, weight, 1e-5)
    x[1, 3] = float("nan")
    out = ops.rms_norm(x, weight, 1e-5)
    assert out[1].isnan().all()
    assert torch.equal(out[[0, 2, 3]], clean[[0, 2, 3]])


def test_rms_norm_refuses_wrong_arguments() -> None:
    x, _, weight, _ = make_case(4, 32)
    with pytest.raises(ValueError, match=r"weight must have shape \[32\], got \[31\]"):
        ops.rms_norm(x, weight[:31], 1e-5)
    with pytest.raises(ValueError, match="hidden_states must be float32, got bfloat16"):
        ops.rms_norm(x.bfloat16(), weight, 1e-5)
    with pytest.raises(ValueError, match=r"out must have shape \[4, 32\], got \[3, 32\]"):
        ops.rms_norm(x, weight, 1e-5, out=torch.empty(3, 32))
    with pytest.raises(ValueError, match="hidden_states must be contiguous, got stride 64 in dimension 0"):
        ops.rms_norm(torch.zeros(4, 64)[:, :32], weight, 1e-5, out=torch.empty(4, 32))
