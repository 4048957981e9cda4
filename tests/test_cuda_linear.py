"""The CUDA products against float64 in every dtype, shape and activation; a row's bits, whatever surrounds it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import cuda_devices
import reference
from cuda_devices import Device

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
TILES = ("large", "small")
SHAPES = [
    (0, 64, 32),
    (1, 8, 8),
    (15, 40, 24),
    (16, 72, 136),
    (17, 96, 64),
    (127, 32, 40),
    (128, 64, 128),
    (129, 104, 264),
]
"""(rows, in_features, out_features) around the tiles of rows, columns and depth."""

on_devices = pytest.mark.parametrize("device", cuda_devices.DEVICES)
in_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


class Case:
    """Random operands on a device, whole numbers of `dtype`."""

    def __init__(
        self,
        device: Device,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        *,
        is_gated: bool = False,
        has_bias: bool = True,
        seed: int = 0,
    ) -> None:
        rows, in_features, out_features = shape
        generator = torch.Generator().manual_seed(seed)

        def make(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator)

        matrices = 2 if is_gated else 1
        self.device, self.is_gated = device, is_gated
        self.x = make(rows, in_features).to(dtype)
        self.weight = (make(matrices * out_features, in_features) / in_features**0.5).to(dtype)
        self.bias = make(matrices * out_features) if has_bias else None
        self.residual = make(rows, out_features)
        self.out_features = out_features
        bias = None if self.bias is None else device.put(self.bias)
        self.packed = device.module.Weight(device.put(self.weight), bias, is_gated)

    def run(
        self,
        part: Any = slice(None),
        *,
        activation: str = "none",
        tile: str = "auto",
        out_dtype: torch.dtype | None = None,
        has_residual: bool = False,
        num_rows: int | None = None,
    ) -> Tensor:
        x = self.device.put(self.x[part].contiguous())
        out = self.device.put(reference.poisoned(len(x), self.out_features).to(out_dtype or x.dtype))
        self.device.module.linear(
            x,
            self.packed,
            activation,
            self.device.put(self.residual[part].contiguous()) if has_residual else None,
            out,
            None if num_rows is None else self.device.put(torch.tensor([num_rows], dtype=torch.int32)),
            self.device.stream(),
            tile=tile,
        )
        return out.cpu()

    def plain(self, dtype: torch.dtype, activation: str = "none", *, has_residual: bool = False) -> Tensor:
        product = self.x.to(dtype) @ self.weight.to(dtype).T
        if self.bias is not None:
            product = product + self.bias.to(dtype)
        if self.is_gated:
            gate, up = product.chunk(2, dim=1)
            product = reference.ACTIVATIONS[activation](gate) * up
        else:
            product = reference.ACTIVATIONS[activation](product)
        return product + self.residual.to(dtype) if has_residual else product

    def budget(self, out_dtype: torch.dtype, activation: str = "none", *, has_residual: bool = False) -> float:
        """Twice what a float32 product, rounded to what is stored, is off by, and float32's rounding over the depth."""
        exact = self.plain(torch.float64, activation, has_residual=has_residual)
        base = self.plain(torch.float32, activation, has_residual=has_residual).to(out_dtype)
        return reference.budget(base, exact, self.x.shape[1])


@on_devices
@in_dtypes
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cuda_linear_matches_float64(
    device: Device, shape: tuple[int, int, int], tile: str, dtype: torch.dtype
) -> None:
    case = Case(device, shape, dtype)
    exact = case.plain(torch.float64, has_residual=True)
    out = case.run(tile=tile, out_dtype=torch.float32, has_residual=True)
    assert reference.max_err(out, exact) <= case.budget(torch.float32, has_residual=True)


@on_devices
@in_dtypes
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (17, 40, 24), (33, 96, 72), (130, 64, 136)], ids=str)
def test_cuda_gated_linear_matches_float64(
    device: Device, shape: tuple[int, int, int], tile: str, dtype: torch.dtype
) -> None:
    case = Case(device, shape, dtype, is_gated=True)
    out = case.run(activation="silu", tile=tile)
    assert reference.max_err(out, case.plain(torch.float64, "silu")) <= case.budget(dtype, "silu")


@on_devices
@in_dtypes
@pytest.mark.parametrize("activation", sorted(reference.ACTIVATIONS))
@pytest.mark.parametrize("is_gated", [False, True])
def test_cuda_linear_activation_matches_float64(
    device: Device, dtype: torch.dtype, activation: str, is_gated: bool
) -> None:
    case = Case(device, (19, 48, 40), dtype, is_gated=is_gated)
    for out_dtype in {dtype, torch.float32}:
        out = case.run(activation=activation, out_dtype=out_dtype)
        assert out.dtype == out_dtype
        assert reference.max_err(out, case.plain(torch.float64, activation)) <= case.budget(out_dtype, activation)


@on_devices
@in_dtypes
def test_cuda_linear_without_bias_adds_nothing(device: Device, dtype: torch.dtype) -> None:
    case = Case(device, (9, 40, 24), dtype, has_bias=False)
    assert reference.max_err(case.run(), case.plain(torch.float64)) <= case.budget(dtype)


@on_devices
@in_dtypes
@pytest.mark.parametrize("is_gated", [False, True])
def test_cuda_linear_is_batch_invariant(device: Device, dtype: torch.dtype, is_gated: bool) -> None:
    rows = 150 if device.name == "emulated" else 5000
    case = Case(device, (rows, 72, 136), dtype, is_gated=is_gated)
    whole = case.run(activation="silu", tile="large")
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(1))
    for tile in TILES:
        assert torch.equal(case.run(order, activation="silu", tile=tile), whole[order])
        for first, last in [(0, 1), (7, 8), (3, 20), (65, 130), (rows - 1, rows)]:
            part = case.run(slice(first, last), activation="silu", tile=tile)
            assert torch.equal(part, whole[first:last])
    assert torch.equal(case.run(activation="silu"), whole)


@on_devices
@in_dtypes
@pytest.mark.parametrize("tile", TILES)
def test_cuda_linear_reads_the_number_of_rows_on_the_device(device: Device, dtype: torch.dtype, tile: str) -> None:
    case = Case(device, (140, 40, 24), dtype)
    whole = case.run(tile=tile)
    for num_rows in (0, 1, 64, 65, 129, 140):
        out = case.run(tile=tile, num_rows=num_rows)
        assert torch.equal(out[:num_rows], whole[:num_rows])
        assert out[num_rows:].isnan().all()


@on_devices
@in_dtypes
def test_cuda_linear_takes_strided_rows_and_adds_in_place(device: Device, dtype: torch.dtype) -> None:
    case = Case(device, (18, 32, 40), dtype)
    wide_x = device.put(torch.full((18, 64), 7.0, dtype=dtype))
    wide_x[:, 16:48] = device.put(case.x)
    wide_out = device.put(torch.full((18, 56), 3.0))
    out = wide_out[:, 8:48]
    out.copy_(case.residual)
    device.module.linear(wide_x[:, 16:48], case.packed, "none", out, out, None, device.stream())
    assert torch.equal(out.cpu(), case.run(out_dtype=torch.float32, has_residual=True))
    assert (wide_out[:, :8] == 3).all()
    assert (wide_out[:, 48:] == 3).all()


@on_devices
@in_dtypes
@pytest.mark.parametrize("tile", TILES)
def test_cuda_linear_keeps_a_bad_row_to_itself(device: Device, dtype: torch.dtype, tile: str) -> None:
    case = Case(device, (40, 64, 40), dtype)
    clean = case.run(tile=tile)
    case.x[17, 3], case.x[18, 5] = float("nan"), float("inf")
    out = case.run(tile=tile)
    assert out[17].isnan().all()
    assert not out[18].isfinite().any()
    keep = [i for i in range(40) if i not in (17, 18)]
    assert torch.equal(out[keep], clean[keep])


@on_devices
def test_cuda_linear_of_many_columns_reads_every_weight(device: Device) -> None:
    """More tiles of rows and columns than a group of them, and columns that say which weight they come from."""
    rows, cols = (600, 144) if device.name == "emulated" else (3000, 4104)
    case = Case(device, (rows, 8, cols), torch.bfloat16, has_bias=False)
    for tile in TILES:
        out = case.run(tile=tile, out_dtype=torch.float32)
        budget = case.budget(torch.float32)
        assert reference.max_err(out, case.plain(torch.float64)) <= budget


@on_devices
def test_cuda_weight_refuses_wrong_tensors(device: Device) -> None:
    def weight(rows: int = 16, cols: int = 8, dtype: torch.dtype = torch.float16) -> Tensor:
        return device.put(torch.zeros(rows, cols, dtype=dtype))

    make = device.module.Weight
    bias = device.put(torch.zeros(16))
    for arguments, message in [
        ((weight(12),), "weight must have a multiple of 8 rows, got 12"),
        ((weight(24), None, True), "weight must have a multiple of 16 rows, got 24"),
        ((weight(cols=12),), "weight must have a multiple of 8 columns up to .*, got 12"),
        ((weight(cols=16)[:, :8],), "weight must be contiguous, got stride 16 in dimension 0"),
        ((weight(dtype=torch.int8),), "weight must be float32 or float16 or bfloat16, got int8"),
        ((weight(), bias[:8]), r"bias must have shape \[16\], got \[8\]"),
        ((weight(), bias.half()), "bias must be float32, got float16"),
        ((weight(cols=9).view(-1)[4:132].view(16, 8),), "weight must be 16-byte aligned"),
    ]:
        with pytest.raises(ValueError, match=message):
            make(*arguments)
    with pytest.raises(TypeError, match=r"weight must be a torch\.Tensor, got list"):
        make([1.0])


@on_devices
def test_cuda_linear_refuses_wrong_arguments(device: Device) -> None:
    case = Case(device, (4, 32, 24), torch.float16)
    good: dict[str, Any] = {
        "hidden_states": device.put(case.x),
        "weight": case.packed,
        "activation": "none",
        "residual": None,
        "out": device.put(torch.zeros(4, 24)),
        "num_rows": None,
        "stream": device.stream(),
    }
    device.module.linear(**good)
    zeros = device.put(torch.zeros(8, 40))
    for change, message in [
        ({"hidden_states": zeros[:4, :32]}, "hidden_states must be float16, got float32"),
        ({"hidden_states": zeros[:4, :24].half()}, r"hidden_states must have shape \[\*, 32\], got \[4, 24\]"),
        ({"activation": "swish"}, "activation='swish': choose one of none, gelu"),
        ({"tile": "huge"}, "tile='huge': choose one of auto, large, small"),
        ({"out": zeros[:4, :24].bfloat16()}, "out must be float16 or float32, got bfloat16"),
        ({"out": zeros[:5, :24]}, r"out must have shape \[4, 24\], got \[5, 24\]"),
        ({"out": zeros[:4, 1:25]}, "out must be 16-byte aligned"),
        ({"out": zeros.view(-1)[:112].view(4, 28)[:, :24]}, r"out's row stride must be a multiple of 8 .*, got 28"),
        ({"residual": zeros[:4, :24].half()}, "residual must be float32, got float16"),
        ({"num_rows": zeros[0, :1]}, "num_rows must be int32, got float32"),
    ]:
        with pytest.raises(ValueError, match=message):
            device.module.linear(**{**good, **change})
