"""Bits of the CUDA `attention_varlen`: a row depends on its own sequence alone, whatever is computed beside it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import cuda_devices
from cuda_attention import make_batch, run
from cuda_devices import Device

on_devices = pytest.mark.parametrize("device", cuda_devices.DEVICES)
dtypes = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=["f16", "bf16", "f32"])
causal = pytest.mark.parametrize("is_causal", [False, True], ids=["bidirectional", "causal"])

SETTINGS: list[dict[str, Any]] = [
    {},
    {"is_causal": True},
    {"is_causal": True, "softmax_scale": 3.0},  # large scores, whose roundings would show
    {"is_causal": True, "window_size": (50, 20), "soft_cap": 5.0},
    {"window_size": (20, 7), "alibi_slopes": torch.tensor([0.5, 0.25, 0.125, 0.0625])},
]


@on_devices
@dtypes
@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "causal", "sharp", "capped", "alibi"])
def test_cuda_attention_is_batch_invariant(device: Device, dtype: torch.dtype, settings: dict[str, Any]) -> None:
    """Alone, in other orders and in other company."""
    lengths = [97, 1, 14, 0, 33, 130, 8, 29, 64]
    batch = make_batch(lengths, dtype, 40, 4, 2)
    alone = [run(device, batch.take([i]), **settings) for i in range(len(lengths))]
    for seed in range(2):
        order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed)).tolist() * (1 + seed)
        out = run(device, batch.take(order), **settings).split([lengths[i] for i in order])
        assert all(torch.equal(row, alone[i]) for i, row in zip(order, out, strict=True))


@on_devices
@dtypes
@pytest.mark.parametrize("settings", SETTINGS[1:], ids=["causal", "sharp", "capped", "alibi"])
def test_cuda_attention_of_some_queries_equals_all(
    device: Device, dtype: torch.dtype, settings: dict[str, Any]
) -> None:
    """A few rows of a long sequence, computed by a single warp from other places, give the bits of the whole."""
    batch = make_batch([150], dtype, num_heads=4)
    whole = run(device, batch, **settings)
    for first, last in [(0, 1), (149, 150), (5, 30), (13, 83), (100, 117)]:
        some = batch.changed(q=batch.q[first:last])
        some = type(batch)(some.q, some.k, some.v, [last - first], [150])
        positions = torch.tensor([first], dtype=torch.int32)
        assert torch.equal(run(device, some, query_positions=positions, **settings), whole[first:last])


@on_devices
@dtypes
def test_cuda_attention_of_wide_sequences_has_the_bits_of_some_queries(device: Device, dtype: torch.dtype) -> None:
    """A wide sequence's blocks of 128 rows, taken by halves; the last half has no rows."""
    batch = make_batch([560], dtype, num_heads=1)
    for settings in SETTINGS[1:3]:
        whole = run(device, batch, **settings)
        for first, last in [(60, 70), (120, 160), (540, 560)]:
            some = type(batch)(batch.q[first:last], batch.k, batch.v, [last - first], [560])
            positions = torch.tensor([first], dtype=torch.int32)
            assert torch.equal(run(device, some, query_positions=positions, **settings), whole[first:last])


@on_devices
def test_cuda_attention_packs_short_sequences_without_a_trace(device: Device) -> None:
    """Sequences of up to 32 tokens, four (sequence, head) pairs to a block, at every place of a block."""
    lengths = [16, 3, 32, 17, 31, 1, 16]
    batch = make_batch(lengths, torch.float16, 64, 3)
    alone = [run(device, batch.take([i])) for i in range(len(lengths))]
    for shift in range(len(lengths)):
        order = [(i + shift) % len(lengths) for i in range(len(lengths))]
        out = run(device, batch.take(order)).split([lengths[i] for i in order])
        assert all(torch.equal(row, alone[i]) for i, row in zip(order, out, strict=True))


@on_devices
@dtypes
@causal
def test_cuda_attention_keeps_a_bad_sequence_to_itself(device: Device, is_causal: bool, dtype: torch.dtype) -> None:
    lengths = [33, 5, 19, 64, 1]
    batch = make_batch(lengths, dtype)
    clean = run(device, batch, is_causal=is_causal)
    batch.k[33:38], batch.v[57:121], batch.q[121] = float("inf"), float("nan"), float("nan")
    out = run(device, batch, is_causal=is_causal)
    assert torch.equal(out[:33], clean[:33])
    assert torch.equal(out[38:57], clean[38:57])
    assert not out[33:38].isfinite().any()
    assert out[57:122].isnan().all()


@on_devices
@dtypes
def test_cuda_attention_window_as_long_as_the_sequence_changes_nothing(device: Device, dtype: torch.dtype) -> None:
    batch = make_batch([130, 20], dtype)
    for is_causal in (False, True):
        windowed = run(device, batch, is_causal=is_causal, window_size=(129, 129))
        assert torch.equal(windowed, run(device, batch, is_causal=is_causal))
    assert torch.equal(run(device, batch, window_size=(-1, 0)), run(device, batch, is_causal=True))
