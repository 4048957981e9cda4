"""`linear` against float64: every instruction set, arithmetic, activation and edge shape; bitwise batch invariance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from assay import ops
from reference import VNNI, activation_error, fixed_point, operand

SHAPES = [
    (0, 64, 32),
    (1, 64, 32),
    (1, 8, 1),
    (5, 70, 33),
    (13, 384, 2),
    (14, 384, 384),
    (15, 100, 31),
    (16, 96, 64),
    (17, 96, 65),
    (31, 33, 40),
    (32, 128, 16),
    (33, 32, 96),
    (300, 384, 100),
    (600, 96, 288),
    (70, 1100, 40),  # deeper than a chunk of AMX
    (560, 540, 40),  # and more rows than wait for the next
]
ARITHMETICS = ("float32", "float32_fma", "bfloat16", "int8")

ACTIVATIONS = {
    "none": lambda x: x,
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu_quick": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": torch.relu,
    "silu": lambda x: x * torch.sigmoid(x),
    "tanh": torch.tanh,
}


def make_case(shape: tuple[int, int, int], seed: int = 0) -> tuple[torch.Tensor, ...]:
    num_tokens, in_features, out_features = shape
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_tokens, in_features, generator=generator)
    weight = torch.randn(out_features, in_features, generator=generator) / in_features**0.5
    bias = torch.randn(out_features, generator=generator)
    residual = torch.randn(num_tokens, out_features, generator=generator)
    return x, weight, bias, residual


def plain(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, activation: str) -> torch.Tensor:
    return ACTIVATIONS[activation](x @ weight.T + bias)


def tolerance(arithmetic: str, isa: str, base: torch.Tensor, exact: torch.Tensor, in_features: int) -> float:
    """Twice the error of a plain product in the same dtype, plus the rounding floor of what is stored.

    The three-product form keeps 16 bits of each operand: a random walk of 2^-17 relative errors over the depth.
    """
    if exact.numel() == 0:
        return 0.0
    error = (base.double() - exact).abs().max().item()
    floor = 1e-6 * max(1.0, exact.abs().max().item())
    if arithmetic == "float32" and isa.startswith("amx"):
        floor += 2.0**-16 * 4
    return 2 * error + floor


def run(x: torch.Tensor, packed: Any, activation: str = "none", residual: torch.Tensor | None = None) -> torch.Tensor:
    out = torch.full((x.shape[0], packed.out_features), float("nan"))
    return ops.linear(x, packed, activation=activation, residual=residual, out=out)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_linear_matches_float64(isa: str, arithmetic: str, shape: tuple[int, int, int]) -> None:
    x, weight, bias, residual = make_case(shape)
    if arithmetic in ("bfloat16", "int8"):
        x, weight = x.bfloat16().float(), weight.bfloat16().float()
    out = run(x, ops.pack_weight(weight, bias, arithmetic), residual=residual)
    x, weight = operand(x, arithmetic, isa), operand(weight, arithmetic, isa, is_weight=True)
    exact = plain(x.double(), weight.double(), bias.double(), "none") + residual.double()
    base = plain(x, weight, bias, "none") + residual
    assert not out.isnan().any()
    if out.numel():
        assert (out.double() - exact).abs().max().item() <= tolerance(arithmetic, isa, base, exact, shape[1])


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_linear_activation_matches_float64(isa: str, arithmetic: str, activation: str) -> None:
    x, weight, bias, _ = make_case((37, 96, 70))
    x, weight = (x * 3).bfloat16().float(), weight.bfloat16().float()
    out = run(x, ops.pack_weight(weight, bias, arithmetic), activation)
    x, weight = operand(x, arithmetic, isa), operand(weight, arithmetic, isa, is_weight=True)
    exact = plain(x.double(), weight.double(), bias.double(), activation)
    base = plain(x, weight, bias, activation)
    allowed = tolerance(arithmetic, isa, base, exact, 96) + activation_error(activation, arithmetic, isa)
    assert (out.double() - exact).abs().max().item() <= allowed


def test_linear_accepts_bfloat16_and_strided_input(isa: str) -> None:
    x, weight, bias, _ = make_case((33, 64, 48))
    wide = torch.randn(33, 200).bfloat16()
    wide[:, 100:164] = x.bfloat16()
    packed = ops.pack_weight(weight, bias, "bfloat16")
    expected = run(x.bfloat16().float(), packed)
    assert torch.equal(run(wide[:, 100:164], packed), expected)
    rounded = ops.linear(wide[:, 100:164], packed, out_dtype=torch.bfloat16)
    assert torch.equal(rounded, expected.bfloat16())


def test_linear_weight_may_be_bfloat16(isa: str) -> None:
    x, weight, bias, _ = make_case((9, 40, 24))
    for arithmetic in ARITHMETICS:
        from_bf16 = run(x, ops.pack_weight(weight.bfloat16(), bias, arithmetic))
        from_f32 = run(x, ops.pack_weight(weight.bfloat16().float(), bias, arithmetic))
        assert torch.equal(from_bf16, from_f32)


def test_linear_without_bias(isa: str) -> None:
    x, weight, _, _ = make_case((4, 32, 20))
    assert torch.equal(
        run(x, ops.pack_weight(weight, None, "float32")), run(x, ops.pack_weight(weight, torch.zeros(20), "float32"))
    )


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_linear_is_batch_invariant(isa: str, arithmetic: str, restore_threads: None) -> None:
    x, weight, bias, residual = make_case((400, 96, 130))
    packed = ops.pack_weight(weight, bias, arithmetic)
    ops.set_num_threads(1)
    whole = run(x, packed, "gelu", residual)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    for threads in (1, 2, 3):
        ops.set_num_threads(threads)
        assert torch.equal(run(x, packed, "gelu", residual), whole)
        assert torch.equal(run(x[order], packed, "gelu", residual[order]), whole[order])
        for first, last in [(0, 1), (7, 8), (3, 20), (100, 131), (399, 400)]:
            assert torch.equal(run(x[first:last], packed, "gelu", residual[first:last]), whole[first:last])


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_weight_is_the_same_packed_by_any_number_of_threads(isa: str, arithmetic: str, restore_threads: None) -> None:
    x, weight, bias, _ = make_case((7, 384, 403))
    gate, up = weight[:200].contiguous(), weight[200:400].contiguous()
    ops.set_num_threads(1)
    alone = run(x, ops.pack_weight(weight, bias, arithmetic))
    gated = ops.linear(x, ops.pack_gated_weight(gate, up, None, None, arithmetic), activation="silu")
    for threads in (2, 3):
        ops.set_num_threads(threads)
        assert torch.equal(run(x, ops.pack_weight(weight, bias, arithmetic)), alone)
        assert torch.equal(
            ops.linear(x, ops.pack_gated_weight(gate, up, None, None, arithmetic), activation="silu"), gated
        )


def test_linear_keeps_a_bad_row_to_itself(isa: str) -> None:
    x, weight, bias, _ = make_case((40, 64, 40))
    for arithmetic in ARITHMETICS:
        packed = ops.pack_weight(weight, bias, arithmetic)
        clean = run(x, packed)
        bad = x.clone()
        bad[17, 3] = float("nan")
        bad[18, 5] = float("inf")
        out = run(bad, packed)
        assert out[17].isnan().all()
        assert not out[18].isfinite().any()
        keep = [i for i in range(40) if i not in (17, 18)]
        assert torch.equal(out[keep], clean[keep])


def test_linear_refuses_wrong_arguments() -> None:
    x, weight, bias, _ = make_case((4, 32, 20))
    packed = ops.pack_weight(weight, bias, "float32")
    with pytest.raises(ValueError, match=r"hidden_states must have shape \[\*, 32\], got \[4, 31\]"):
        run(x[:, :31], packed)
    with pytest.raises(ValueError, match="activation='swish': choose one of none, gelu"):
        run(x, packed, "swish")
    with pytest.raises(ValueError, match="arithmetic='int3': choose one of"):
        ops.pack_weight(weight, bias, "int3")
    with pytest.raises(ValueError, match=r"bias must have shape \[20\], got \[19\]"):
        ops.pack_weight(weight, bias[:19], "float32")
    with pytest.raises(ValueError, match="hidden_states must be float32 or bfloat16, got int32"):
        run(x.int(), packed)
    with pytest.raises(TypeError, match=r"hidden_states must be a torch\.Tensor, got list"):
        ops.cpu_module().linear([1.0], packed, "none", None, x)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_linear_keeps_bad_numbers_in_their_row(isa: str, arithmetic: str) -> None:
    x, weight, bias, _ = make_case((64, 300, 48))
    packed = ops.pack_weight(weight, bias, arithmetic)
    expected = run(x, packed)
    x[3, 7], x[9, 299], x[20, 130] = float("nan"), float("inf"), float("-inf")
    x[30], x[31], x[32] = 0.0, 1e-38, 1e30
    result = run(x, packed)
    assert not result[[3, 9, 20]].isfinite().any()
    kept = [row for row in range(64) if row not in (3, 9, 20, 30, 31, 32)]
    assert torch.equal(result[kept], expected[kept])
    assert torch.equal(result[[30, 31]], bias.expand(2, -1))
    # bfloat16: 300 weights, each off by up to 2^-9 of itself; int8: by up to 1/128 of the largest, some 0.2.
    assert torch.allclose(result[32] / 1e30, weight.sum(1), atol=0.1 if arithmetic == "int8" else 0.02)


def test_fixed_point_is_finer_than_bfloat16() -> None:
    """The bfloat16 mode of AVX2 rounds less than bfloat16 does."""
    x, weight, bias, _ = make_case((64, 300, 48))
    rounded = plain(x.bfloat16().double(), weight.bfloat16().double(), bias.double(), "none")
    fixed = plain(fixed_point(x).double(), fixed_point(weight).double(), bias.double(), "none")
    exact = plain(x.double(), weight.double(), bias.double(), "none")
    assert (fixed - exact).abs().max() < (rounded - exact).abs().max() / 4


@pytest.mark.parametrize("in_features", [8, 128, 300])
def test_int8_linear_is_exact_on_small_integers(isa: str, in_features: int) -> None:
    """Whole numbers that the scales hold as they are: every product, offset and padding then comes out exact."""
    generator = torch.Generator().manual_seed(5)
    has_vnni = isa in VNNI
    steps = 255 if has_vnni else 181
    # Without VNNI four weights must not come to more than 179 (tests below), so that 127 leaves 17 to each of three.
    least = -127 if has_vnni else -17
    x = torch.randint(-50, steps - 49, (19, in_features), generator=generator).float()
    weight = torch.randint(least, 1 - least, (40, in_features), generator=generator).float()
    # The ends of each run, which make its scale 1.
    x[:, ::128], x[:, 1::128], weight[:, ::128] = -50, steps - 50, 127
    assert torch.equal(run(x, ops.pack_weight(weight, None, "int8")), x @ weight.T)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("together", [(0, 1, 4, 5), (2, 3, 6, 7), (2, 6), range(8)])
def test_int8_linear_does_not_saturate(isa: str, together: Sequence[int], sign: float) -> None:
    """The largest inputs meet weights that make all products of an int16 one sign, and as large as they get."""
    x, weight = torch.zeros(5, 384), torch.zeros(20, 384)
    for place in together:
        x[:, place::8], weight[:, place::8] = 1.0, -3.0 * sign
    packed = ops.pack_weight(weight, None, "int8")
    expected = torch.full((5, 20), -144.0 * len(together) * sign)
    assert torch.allclose(run(x, packed), expected, rtol=1e-6)
    assert torch.allclose(run(-x, packed), -expected, rtol=1e-6)


def test_int8_weights_keep_eight_bits_where_few_meet_with_one_sign(isa: str) -> None:
    """The error of weights in random order is that of steps finer than 1 / 64 of the largest, which seven bits have."""
    generator = torch.Generator().manual_seed(6)
    weight = torch.randn(64, 256, generator=generator)
    x = torch.eye(256)
    packed = run(x, ops.pack_weight(weight, None, "int8")).T
    run_length = 256 if isa.startswith("amx") else 128
    runs = weight.unflatten(1, (-1, run_length))
    error = (packed.unflatten(1, (-1, run_length)) - runs) / runs.abs().amax(-1, keepdim=True)
    assert error.square().mean().sqrt() < 0.7 / 64 / 12**0.5


def test_int8_weight_refuses_a_depth_that_could_overflow() -> None:
    with pytest.raises(ValueError, match="arithmetic='int8' takes at most 66000 input features, got 66001"):
        ops.pack_weight(torch.ones(1, 66001), None, "int8")
