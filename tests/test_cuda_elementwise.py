"""The CUDA `rotary` and `gated_activation`, emulated and on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import cuda_devices
import reference
from cuda_devices import Device, address, dtype_name, rounding

on_devices = pytest.mark.parametrize("device", cuda_devices.DEVICES)
on_modules = pytest.mark.parametrize("module", cuda_devices.MODULES)
on_dtypes = pytest.mark.parametrize("dtype", cuda_devices.DTYPES, ids=dtype_name)

HEADS = [
    (1, 1, 64, 64),
    (4, 2, 64, 64),
    (3, 1, 128, 32),
    (2, 2, 80, 80),
    (2, 1, 96, 48),
    (1, 1, 256, 256),
    (2, 1, 10, 6),
]
"""num_heads, num_kv_heads, head_dim, rotary_dim."""
POSITIONS = 50
EPSILON = 1e-6


class Rotary:
    """Random q and k inside one buffer, as a product leaves them, with norms and tables."""

    def __init__(
        self,
        dtype: torch.dtype,
        num_tokens: int,
        heads: tuple[int, int, int, int],
        *,
        has_norm: bool,
        is_interleaved: bool,
    ) -> None:
        generator = torch.Generator().manual_seed(sum(heads))
        self.num_heads, self.num_kv_heads, self.head_dim, self.rotary_dim = heads
        self.num_tokens, self.dtype, self.is_interleaved = num_tokens, dtype, is_interleaved
        width = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        self.qkv = torch.randn(num_tokens, width, generator=generator).to(dtype)
        self.positions = torch.randint(POSITIONS, (num_tokens,), generator=generator, dtype=torch.int32)
        angles = torch.rand(POSITIONS, self.rotary_dim // 2, generator=generator) * 6
        self.cos, self.sin = angles.cos(), angles.sin()
        self.norms = [torch.randn(self.head_dim, generator=generator) for _ in "qk"] if has_norm else None

    def parts(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """Views of q and k as [num_tokens, heads, head_dim]."""
        q_width, k_width = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        q, k = qkv[:, :q_width], qkv[:, q_width : q_width + k_width]
        return q.unflatten(1, (-1, self.head_dim)), k.unflatten(1, (-1, self.head_dim))

    def plain(self, dtype: torch.dtype) -> Tensor:
        """The whole buffer in `dtype`."""
        qkv = self.qkv.clone().to(dtype)
        for idx, part in enumerate(self.parts(qkv)):
            x = part if self.norms is None else reference.rms_norm(part, self.norms[idx].to(dtype), EPSILON)
            tables = self.cos.to(dtype), self.sin.to(dtype)
            part.copy_(reference.rotary(x.clone(), *tables, self.positions, self.is_interleaved))
        return qkv

    def run(self, device: Device, rows: slice = slice(None), live: int | None = None) -> Tensor:
        qkv = device.put(self.qkv[rows].clone())
        q, k = self.parts(qkv)
        positions, cos, sin = (device.put(x) for x in (self.positions[rows].contiguous(), self.cos, self.sin))
        q_norm, k_norm = (None, None) if self.norms is None else (device.put(x) for x in self.norms)
        num_live = None if live is None else device.put(torch.tensor([live], dtype=torch.int32))
        device.module.rotary(
            q=address(q),
            q_stride=q.stride(0),
            num_heads=self.num_heads,
            k=address(k),
            k_stride=k.stride(0),
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            position_ids=address(positions),
            cos=address(cos),
            sin=address(sin),
            rotary_dim=self.rotary_dim,
            is_interleaved=self.is_interleaved,
            q_norm=address(q_norm),
            k_norm=address(k_norm),
            epsilon=EPSILON,
            dtype=dtype_name(self.dtype),
            num_live_rows=address(num_live),
            num_tokens=qkv.shape[0],
            stream=device.stream(),
        )
        return qkv.cpu()


@on_devices
@on_dtypes
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize("is_interleaved", [False, True])
def test_cuda_rotary_matches_float64(
    device: Device, dtype: torch.dtype, heads: tuple[int, int, int, int], has_norm: bool, is_interleaved: bool
) -> None:
    case = Rotary(dtype, 7, heads, has_norm=has_norm, is_interleaved=is_interleaved)
    exact, base = case.plain(torch.float64), case.plain(torch.float32)
    whole = case.run(device)
    assert reference.max_err(whole, exact) <= reference.budget(base, exact) + rounding(dtype, exact)
    # What is neither q nor k is left alone, and so is what follows the rotated part where there is no norm.
    v = slice((case.num_heads + case.num_kv_heads) * case.head_dim, None)
    assert torch.equal(whole[:, v], case.qkv[:, v])
    if not has_norm:
        for ours, given in zip(case.parts(whole), case.parts(case.qkv), strict=True):
            assert torch.equal(ours[..., case.rotary_dim :], given[..., case.rotary_dim :])
    for rows in (slice(0, 1), slice(3, 7)):
        assert torch.equal(case.run(device, rows), whole[rows])


@on_devices
def test_cuda_rotary_leaves_tokens_behind_the_last_alone(device: Device) -> None:
    case = Rotary(torch.float16, 6, (2, 1, 32, 32), has_norm=True, is_interleaved=False)
    some = case.run(device, live=4)
    assert torch.equal(some[:4], case.run(device)[:4])
    assert torch.equal(some[4:], case.qkv[4:])


def gated(device: Device, gate_up: Tensor, activation: str, live: int | None = None) -> Tensor:
    num_live = None if live is None else device.put(torch.tensor([live], dtype=torch.int32))
    inner_size = gate_up.shape[1] // 2
    out = device.put(reference.poisoned(gate_up.shape[0], inner_size).to(gate_up.dtype))
    on_device = device.put(gate_up)
    device.module.gated_activation(
        gate_up=address(on_device),
        out=address(out),
        activation=activation,
        dtype=dtype_name(gate_up.dtype),
        num_live_rows=address(num_live),
        num_rows=gate_up.shape[0],
        inner_size=inner_size,
        stream=device.stream(),
    )
    return out.cpu()


@on_devices
@on_dtypes
@pytest.mark.parametrize("activation", sorted(reference.ACTIVATIONS))
@pytest.mark.parametrize("inner_size", [1, 8, 100, 2056])
def test_cuda_gated_activation_matches_float64(
    device: Device, dtype: torch.dtype, activation: str, inner_size: int
) -> None:
    gate_up = (3 * torch.randn(5, 2 * inner_size, generator=torch.Generator().manual_seed(0))).to(dtype)

    def plain(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=1)
        return reference.ACTIVATIONS[activation](gate) * up

    exact, base = plain(gate_up.double()), plain(gate_up.float())
    out = gated(device, gate_up, activation)
    assert reference.max_err(out, exact) <= reference.budget(base, exact) + rounding(dtype, exact)
    assert torch.equal(gated(device, gate_up[2:3], activation)[0], out[2])


@on_devices
def test_cuda_gated_activation_leaves_rows_behind_the_last_alone(device: Device) -> None:
    out = gated(device, torch.randn(4, 32), "silu", live=3)
    assert out[:3].isfinite().all()
    assert out[3].isnan().all()


@on_modules
def test_cuda_elementwise_refuses_wrong_arguments(module: Any) -> None:
    rotary: dict[str, Any] = {
        **dict.fromkeys(("q", "k", "position_ids", "cos", "sin"), 64),
        **dict.fromkeys(("q_norm", "k_norm", "num_live_rows", "stream"), 0),
        **dict.fromkeys(("num_heads", "num_kv_heads", "num_tokens"), 1),
        **dict.fromkeys(("q_stride", "k_stride", "head_dim", "rotary_dim"), 64),
        "is_interleaved": False,
        "epsilon": 0.0,
        "dtype": "float16",
    }
    for change, message in [
        ({"head_dim": 257}, "head_dim must be 1 to 256, got 257"),
        ({"rotary_dim": 66}, "rotary_dim must be 0 to 64, got 66"),
        ({"rotary_dim": 33}, "rotary_dim must be even, got 33"),
        ({"q_stride": 63}, "q_stride must be 64 to .*, got 63"),
        ({"position_ids": 0}, "position_ids must be a device pointer, got null"),
        ({"k": 0}, "k must be a device pointer, got null"),
    ]:
        with pytest.raises(ValueError, match=message):
            module.rotary(**{**rotary, **change})
    gate = {"gate_up": 64, "out": 64, "num_live_rows": 0, "num_rows": 1, "inner_size": 8, "stream": 0}
    for change, message in [
        (
            {"activation": "swish"},
            "activation='swish': choose one of none, gelu, gelu_tanh, gelu_quick, relu, silu, tanh",
        ),
        ({"inner_size": 0}, "inner_size must be 1 to 2147483647, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            module.gated_activation(**{**gate, "activation": "silu", "dtype": "float32", **change})
