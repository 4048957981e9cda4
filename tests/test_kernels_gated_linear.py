"""`linear` on a gated weight against float64: every arithmetic, activation and edge shape; bitwise batch invariance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import reference
from assay import ops

SHAPES = [
    (0, 64, 32),
    (1, 8, 1),
    (5, 70, 7),
    (6, 33, 8),
    (13, 40, 9),
    (15, 100, 15),
    (16, 96, 16),
    (17, 96, 17),
    (33, 32, 31),
    (14, 48, 33),
    (130, 96, 100),
]
ARITHMETICS = ("float32", "float32_fma", "bfloat16", "int8")
arithmetics = pytest.mark.parametrize("arithmetic", ARITHMETICS)


def make_case(num_tokens: int, in_features: int, inner: int) -> tuple[Tensor, ...]:
    """x, gate, up, gate_bias, up_bias, residual; values that bfloat16 holds."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_tokens, in_features, generator=generator)
    gate, up = (torch.randn(inner, in_features, generator=generator) / in_features**0.5 for _ in range(2))
    biases = (torch.randn(inner, generator=generator) for _ in range(2))
    residual = torch.randn(num_tokens, inner, generator=generator)
    return *(t.bfloat16().float() for t in (x, gate, up)), *biases, residual


def multiplied(isa: str, arithmetic: str, x: Tensor, gate: Tensor, up: Tensor, *biases: Tensor) -> list[Tensor]:
    """The operands as the arithmetic rounds them."""
    weights = (reference.operand(part, arithmetic, isa, is_weight=True) for part in (gate, up))
    return [reference.operand(x, arithmetic, isa), *weights, *biases]


def plain(
    x: Tensor, gate: Tensor, up: Tensor, gate_bias: Tensor | None, up_bias: Tensor | None, activation: str
) -> Tensor:
    """In the dtype of x."""
    factors = [
        x @ weight.to(x.dtype).T + (0 if bias is None else bias.to(x.dtype))
        for weight, bias in ((gate, gate_bias), (up, up_bias))
    ]
    return reference.ACTIVATIONS[activation](factors[0]) * factors[1]


def budget(isa: str, arithmetic: str, base: Tensor, exact: Tensor, depth: int) -> float:
    """The three-product form keeps 16 bits of each operand (test_kernels_linear), and here its errors multiply."""
    extra = 2.0**-13 * max(1.0, exact.abs().max().item()) if exact.numel() else 0.0
    return reference.budget(base, exact, depth) + (extra if arithmetic == "float32" and isa.startswith("amx") else 0.0)


@arithmetics
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gated_linear_matches_float64(isa: str, arithmetic: str, shape: tuple[int, int, int]) -> None:
    x, *weights, residual = make_case(*shape)
    packed = ops.pack_gated_weight(*weights, arithmetic)
    assert (packed.out_features, packed.in_features, packed.is_gated) == (shape[2], shape[1], True)
    out = ops.linear(x, packed, activation="silu", residual=residual, out=reference.poisoned(shape[0], shape[2]))
    x, *weights = multiplied(isa, arithmetic, x, *weights)
    exact = plain(x.double(), *weights, "silu") + residual.double()
    base = plain(x, *weights, "silu") + residual
    assert reference.max_err(out, exact) <= budget(isa, arithmetic, base, exact, shape[1])


@arithmetics
@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "relu", "silu"])
def test_gated_linear_activates_the_gate(isa: str, arithmetic: str, activation: str) -> None:
    x, *weights, _ = make_case(20, 48, 21)
    out = ops.linear(x, ops.pack_gated_weight(*weights, arithmetic), activation=activation)
    x, *weights = multiplied(isa, arithmetic, x, *weights)
    exact = plain(x.double(), *weights, activation)
    base = plain(x, *weights, activation)
    _, up, _, up_bias = weights
    largest_up = (x @ up.T + up_bias).abs().max().item()
    allowed = budget(isa, arithmetic, base, exact, 48)
    allowed += reference.activation_error(activation, arithmetic, isa) * largest_up
    assert reference.max_err(out, exact) <= allowed


@arithmetics
def test_gated_linear_is_the_product_of_two_linears(isa: str, arithmetic: str) -> None:
    x, gate, up, gate_bias, up_bias, _ = make_case(40, 70, 50)
    factors = [
        ops.linear(x, ops.pack_weight(weight, bias, arithmetic), activation=activation)
        for weight, bias, activation in ((gate, gate_bias, "gelu"), (up, up_bias, "none"))
    ]
    packed = ops.pack_gated_weight(gate, up, gate_bias, up_bias, arithmetic)
    assert torch.equal(ops.linear(x, packed, activation="gelu"), factors[0] * factors[1])


@pytest.mark.parametrize("which", ["gate", "up", "neither"])
def test_gated_linear_takes_one_bias_or_none(isa: str, which: str) -> None:
    x, gate, up, gate_bias, up_bias, _ = make_case(9, 40, 20)
    given = (gate_bias if which == "gate" else None), (up_bias if which == "up" else None)
    zeros = torch.zeros(20)
    full = [zeros if bias is None else bias for bias in given]
    assert torch.equal(
        ops.linear(x, ops.pack_gated_weight(gate, up, *given, "float32"), activation="silu"),
        ops.linear(x, ops.pack_gated_weight(gate, up, *full, "float32"), activation="silu"),
    )


@arithmetics
def test_gated_linear_is_batch_invariant(isa: str, arithmetic: str, restore_threads: None) -> None:
    x, *weights, residual = make_case(200, 96, 70)
    packed = ops.pack_gated_weight(*weights, arithmetic)
    ops.set_num_threads(1)
    whole = ops.linear(x, packed, activation="silu", residual=residual)
    for threads in (1, 2, 3):
        ops.set_num_threads(threads)
        for first, last in [(0, 200), (0, 1), (7, 8), (3, 20), (100, 131), (199, 200)]:
            part = ops.linear(x[first:last], packed, activation="silu", residual=residual[first:last])
            assert torch.equal(part, whole[first:last])


def test_pack_gated_weight_refuses_wrong_arguments() -> None:
    _, gate, up, gate_bias, up_bias, _ = make_case(1, 32, 20)
    with pytest.raises(ValueError, match=r"up must have shape \[20, 32\], got \[19, 32\]"):
        ops.pack_gated_weight(gate, up[:19], None, None, "float32")
    with pytest.raises(ValueError, match="up must be float32, got bfloat16"):
        ops.pack_gated_weight(gate, up.bfloat16(), None, None, "float32")
    with pytest.raises(ValueError, match=r"gate_bias must have shape \[20\], got \[19\]"):
        ops.pack_gated_weight(gate, up, gate_bias[:19], up_bias, "float32")
    with pytest.raises(ValueError, match="up_bias must be float32, got bfloat16"):
        ops.pack_gated_weight(gate, up, gate_bias, up_bias.bfloat16(), "float32")
    with pytest.raises(ValueError, match=r"gate must not be empty, got \[0, 32\]"):
        ops.pack_gated_weight(gate[:0], up[:0], None, None, "float32")
    with pytest.raises(ValueError, match="arithmetic='int3': choose one of"):
        ops.pack_gated_weight(gate, up, None, None, "int3")
