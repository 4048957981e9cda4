"""exp, tanh, erf and what is made of them, through `linear` and `classifier_head` with weights that pass values on."""

from __future__ import annotations

import pytest
import torch

import reference
from assay import ops

SPECIAL = [0.0, -0.0, 1e-42, -1e-30, 1e-8, 5.48, -5.48, 9.1, -9.1, 20.0, -87.5, 88.5, -1e3, 1e3, -3e38, 3e38]


def sweep() -> torch.Tensor:
    """[n, 1]: dense around 0, all magnitudes, both signs."""
    generator = torch.Generator().manual_seed(0)
    uniform = (torch.rand(60000, generator=generator) * 2 - 1) * 12
    tiny = torch.randn(20000, generator=generator) * 10 ** (torch.rand(20000, generator=generator) * 8 - 7)
    return torch.cat([torch.tensor(SPECIAL), torch.linspace(-100, 100, 20001), uniform, tiny])[:, None]


def activated(x: torch.Tensor, activation: str, num_lanes: int = 1) -> torch.Tensor:
    """activation(x) for x [n, 1] -> [n, num_lanes]: one input feature, weights 1."""
    packed = ops.pack_weight(torch.ones(num_lanes, 1), None, "float32_fma")
    return ops.linear(x, packed, activation=activation, out=reference.poisoned(x.shape[0], num_lanes))


def exact_activation(x: torch.Tensor, activation: str) -> torch.Tensor:
    """float64; forms that neither cancel below 0 nor overflow."""
    x = x.double()
    if activation == "gelu":
        return 0.5 * x * torch.special.erfc(-x / 2**0.5)
    if activation == "gelu_tanh":
        return x * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))
    return reference.ACTIVATIONS[activation](x)


@pytest.mark.parametrize("activation", sorted(reference.ACTIVATIONS))
def test_activation_is_accurate(isa: str, activation: str) -> None:
    x = sweep()
    exact = exact_activation(x, activation)
    out = activated(x, activation).double()
    # About two float32 steps of the larger of input and output.
    error = (out - exact).abs() / torch.maximum(exact.abs(), x.double().abs()).clamp(min=1)
    assert error.max().item() <= 2.5e-7
    if activation in ("tanh", "silu"):
        # Both keep their relative accuracy all the way down to 0.
        normal = (x.abs() > 1e-37) & (x > -87)
        assert ((out - exact).abs() / exact.abs())[normal].max().item() <= 4e-7


@pytest.mark.parametrize("activation", sorted(reference.ACTIVATIONS))
def test_activation_of_large_negative_input_leaves_no_residue(isa: str, activation: str) -> None:
    out = activated(torch.tensor([[-20.0], [-1e4], [-3e38]]), activation)
    expected = {"none": [-20.0, -1e4, -3e38], "tanh": [-1.0, -1.0, -1.0]}.get(activation, [0.0, 0.0, 0.0])
    assert (out[:, 0] - torch.tensor(expected)).abs().max().item() <= 5e-8


@pytest.mark.parametrize("activation", sorted(reference.ACTIVATIONS))
def test_activation_keeps_nan_and_positive_infinity(isa: str, activation: str) -> None:
    out = activated(torch.tensor([[float("nan")], [float("inf")], [1.0]]), activation)
    assert out[0].isnan().all()
    assert out[1].item() == (1.0 if activation == "tanh" else float("inf"))
    assert out[2].isfinite().all()


@pytest.mark.parametrize("activation", sorted(reference.ACTIVATIONS))
def test_every_lane_computes_the_same(isa: str, activation: str) -> None:
    x = sweep()[::7]
    narrow = activated(x, activation)
    assert torch.equal(activated(x, activation, 35), narrow.expand(-1, 35))


def test_sigmoid_is_accurate(isa: str) -> None:
    x = sweep().clamp(-87, 87)
    packed = ops.pack_weight(torch.ones(1, 1), None, "float32_fma")
    codes = torch.full((x.shape[0],), ops.HEAD_ACTIVATIONS["sigmoid"], dtype=torch.uint8)
    out, exact = ops.classifier_head(x, packed, codes).double(), x.double().sigmoid()
    assert ((out - exact) / exact).abs().max().item() <= 4e-7


def test_exp_is_accurate(isa: str) -> None:
    """softmax([x, 0]) = [e, 1] / (e + 1) with e = exp(x), x <= 0."""
    x = -sweep().abs().clamp(max=87)
    packed = ops.pack_weight(torch.tensor([[1.0], [0.0]]), None, "float32_fma")
    codes = torch.full((x.shape[0],), ops.HEAD_ACTIVATIONS["softmax"], dtype=torch.uint8)
    out = ops.classifier_head(x, packed, codes).double()
    exact = torch.cat([x, torch.zeros_like(x)], 1).double().softmax(-1)
    assert ((out - exact) / exact).abs().max().item() <= 3e-7
