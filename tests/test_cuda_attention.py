"""The CUDA `attention_varlen` against float64: every switch, ragged shapes around its tiles, poisoned outputs; emulated
and on a GPU. Its bits are compared in test_cuda_attention_bits.py.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import cuda_devices
import reference
from cuda_attention import Batch, check, launch, make_batch, make_schedule, run
from cuda_devices import Device

on_devices = pytest.mark.parametrize("device", cuda_devices.DEVICES)
on_modules = pytest.mark.parametrize("module", cuda_devices.MODULES)
dtypes = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=["f16", "bf16", "f32"])
causal = pytest.mark.parametrize("is_causal", [False, True], ids=["bidirectional", "causal"])

LENGTHS = [
    [0],
    [1],
    [0, 3, 0, 0, 1],
    [15, 16, 17],  # rows of a warp
    [31, 32, 33],  # short or long; keys of a tile
    [0, 1, 15, 16, 17, 63, 64, 65, 130],
    [5, 6, 7, 8, 9, 10, 11],  # seven (sequence, head) pairs to two blocks of four warps, with two heads
]
WINDOWS = [(0, 0), (8, 3), (31, 0), (64, -1), (-1, 5), (33, 32)]


@on_devices
@dtypes
@causal
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_cuda_attention_matches_float64(
    device: Device, lengths: list[int], is_causal: bool, dtype: torch.dtype
) -> None:
    check(device, make_batch(lengths, dtype), is_causal=is_causal)


@on_devices
@dtypes
@pytest.mark.parametrize("head_dim", [8, 32, 40, 64, 72, 80, 96, 128, 200, 256])
def test_cuda_attention_handles_head_dims(device: Device, head_dim: int, dtype: torch.dtype) -> None:
    """The compiled ones, and those that are filled up to the next."""
    for is_causal in (False, True):
        check(device, make_batch([33, 1, 14, 70], dtype, head_dim, num_heads=1), is_causal=is_causal)


@on_devices
@dtypes
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 2), (6, 1), (3, 3)])
def test_cuda_attention_groups_queries(device: Device, num_heads: int, num_kv_heads: int, dtype: torch.dtype) -> None:
    check(device, make_batch([29, 0, 90, 16], dtype, 40, num_heads, num_kv_heads), is_causal=True)


@on_devices
@dtypes
@causal
def test_cuda_attention_takes_other_key_lengths(device: Device, is_causal: bool, dtype: torch.dtype) -> None:
    """Fewer keys than queries (the first causal rows see none), more, none at all, and keys without queries."""
    lengths, lengths_k = [20, 80, 5, 0, 1, 40, 1, 70], [9, 33, 0, 4, 200, 2, 1, 170]
    batch = make_batch(lengths, dtype, lengths_k=lengths_k)
    check(device, batch, is_causal=is_causal)
    out = run(device, batch, is_causal=is_causal)
    assert torch.equal(out[100:105], torch.zeros_like(out[100:105]))
    if is_causal:
        assert torch.equal(out[:11], torch.zeros_like(out[:11]))


@on_devices
@dtypes
def test_cuda_attention_reads_a_fused_buffer(device: Device, dtype: torch.dtype) -> None:
    """q, k and v as slices of one [num_tokens, 3, num_heads, head_dim] buffer; out inside a wider one."""
    lengths = [50, 1, 17]
    fused = torch.randn(68, 3, 4, 40, generator=torch.Generator().manual_seed(1)).to(dtype)
    q, k, v = fused.unbind(1)
    whole = run(device, Batch(q.contiguous(), k.contiguous(), v.contiguous(), lengths, lengths))
    wide = torch.full((68, 7, 40), float("nan"), dtype=dtype, device=device.torch_device)
    q, k, v = device.put(fused).unbind(1)
    offsets = device.put(reference.cu_seqlens(lengths))
    launch(device, q, k, v, wide[:, 2:6], make_schedule(device, offsets, offsets, 68), 3)
    assert torch.equal(wide[:, 2:6].cpu(), whole)
    assert wide[:, :2].isnan().all()
    assert wide[:, 6].isnan().all()


@on_devices
@pytest.mark.parametrize("softmax_scale", [1e-4, 0.5, 3.0])
def test_cuda_attention_uses_softmax_scale(device: Device, softmax_scale: float) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        check(device, make_batch([40, 100], dtype), softmax_scale=softmax_scale)


@on_devices
@dtypes
def test_cuda_attention_subtracts_the_maximum(device: Device, dtype: torch.dtype) -> None:
    """Scores of thousands, rising from tile to tile and falling: exp would overflow or vanish without it."""
    batch = make_batch([160, 30], dtype)
    for slope in (torch.linspace(0, 60, 190), torch.linspace(60, 0, 190)):
        steep = batch.changed(q=batch.q.abs(), k=(batch.k.abs() * slope[:, None, None]).to(dtype))
        check(device, steep)
        check(device, steep, is_causal=True)
    check(device, batch.changed(k=torch.full_like(batch.k, -100.0), q=batch.q.abs()))


@on_devices
@dtypes
def test_cuda_attention_of_equal_values_is_that_value(device: Device, dtype: torch.dtype) -> None:
    """The weights of a row add up to one, rounded to the dtype as they are."""
    batch = make_batch([97, 20], dtype)
    out = run(device, batch.changed(v=torch.full_like(batch.v, 0.75)))
    # float32: numerator and denominator add 97 terms up in different orders.
    assert (out - 0.75).abs().max() <= (2e-6 if dtype is torch.float32 else 0.0)


@on_devices
@dtypes
@causal
@pytest.mark.parametrize("window_size", WINDOWS, ids=str)
def test_cuda_attention_slides_a_window(
    device: Device, window_size: tuple[int, int], is_causal: bool, dtype: torch.dtype
) -> None:
    check(device, make_batch([0, 1, 7, 33, 150], dtype, num_heads=1), is_causal=is_causal, window_size=window_size)


@on_devices
@causal
@pytest.mark.parametrize("window_size", [(0, 0), (8, 3), (40, -1), (-1, 2)], ids=str)
def test_cuda_attention_windows_take_other_key_lengths(
    device: Device, window_size: tuple[int, int], is_causal: bool
) -> None:
    """Queries stand at the last keys; those that stand before the first key may see none."""
    batch = make_batch([20, 70, 5, 0, 1, 40], torch.bfloat16, lengths_k=[9, 33, 0, 4, 200, 2])
    check(device, batch, is_causal=is_causal, window_size=window_size)


@on_devices
@dtypes
@causal
@pytest.mark.parametrize("soft_cap", [0.5, 20.0, 1e4])
def test_cuda_attention_caps_scores(device: Device, soft_cap: float, is_causal: bool, dtype: torch.dtype) -> None:
    batch = make_batch([17, 1, 100], dtype)
    check(device, batch, is_causal=is_causal, soft_cap=soft_cap, softmax_scale=1.5)
    check(device, batch, is_causal=is_causal, soft_cap=soft_cap, window_size=(30, 30))


@on_devices
@dtypes
@causal
def test_cuda_attention_adds_alibi_slopes(device: Device, is_causal: bool, dtype: torch.dtype) -> None:
    batch = make_batch([17, 1, 100], dtype, lengths_k=[30, 2, 90])
    slopes = torch.tensor([0.5, 0.0625])
    check(device, batch, is_causal=is_causal, alibi_slopes=slopes)
    check(device, batch, is_causal=is_causal, alibi_slopes=slopes, soft_cap=20.0, window_size=(40, 9))


@on_devices
@dtypes
@causal
def test_cuda_attention_takes_query_positions(device: Device, is_causal: bool, dtype: torch.dtype) -> None:
    """Queries in the middle of their keys, before the first and behind the last."""
    batch = make_batch([1, 1, 1, 40, 70], dtype, lengths_k=[100, 3, 50, 90, 90])
    positions = torch.tensor([37, -2, 60, 11, 30], dtype=torch.int32)
    check(device, batch, is_causal=is_causal, query_positions=positions)
    check(device, batch, is_causal=is_causal, query_positions=positions, window_size=(20, 5))


@on_devices
def test_cuda_attention_takes_no_sequences(device: Device) -> None:
    assert run(device, make_batch([])).shape == (0, 2, 32)


@pytest.mark.skipif(not cuda_devices.has_gpu, reason="too long for the emulation: needs a GPU")
@dtypes
@causal
@pytest.mark.parametrize("head_dim", [64, 128])
def test_cuda_attention_of_long_sequences_matches_float64(is_causal: bool, dtype: torch.dtype, head_dim: int) -> None:
    device = Device("gpu", cuda_devices.CUDA, "cuda")
    lengths = [2000, 1, 513, 64, 300, 16, 0, 1025, *range(1, 60)]
    batch = make_batch(lengths, dtype, head_dim, 4, 2)
    check(device, batch, is_causal=is_causal)
    check(device, batch, is_causal=is_causal, window_size=(200, 50))


@on_modules
def test_cuda_attention_refuses_wrong_arguments(module: Any) -> None:
    arguments = {
        **dict.fromkeys(("q", "k", "v", "out", "schedule"), 64),
        **dict.fromkeys(("q_stride", "k_stride", "v_stride", "out_stride"), 64),
        **dict.fromkeys(("alibi_slopes", "query_positions", "stream"), 0),
        "dtype": "float16",
        "num_seqs": 1,
        "num_tokens": 1,
        "num_key_tokens": 1,
        "num_heads": 2,
        "num_kv_heads": 2,
        "head_dim": 32,
        "softmax_scale": 1.0,
        "is_causal": False,
        "window_left": -1,
        "window_right": -1,
        "soft_cap": 0.0,
    }
    for change, message in [
        ({"dtype": "int8"}, "dtype='int8': choose one of float32, float16, bfloat16"),
        ({"num_seqs": -1}, "num_seqs must be 0 to 16777216, got -1"),
        ({"num_tokens": 1 << 29}, "num_tokens must be 0 to 536870911, got 536870912"),
        ({"num_key_tokens": -1}, "num_key_tokens must be 0 to 536870911, got -1"),
        ({"attention_path": "fast"}, "attention_path='fast': choose one of portable, hopper"),
        ({"num_kv_heads": 3}, "num_kv_heads must be 1 to 2, got 3"),
        ({"num_heads": 3}, "num_heads must be a multiple of num_kv_heads, got 3 and 2"),
        ({"head_dim": 36}, "head_dim must be a multiple of 8 up to 256, got 36"),
        ({"head_dim": 264}, "head_dim must be a multiple of 8 up to 256, got 264"),
        ({"softmax_scale": 0.0}, "softmax_scale must be finite and > 0"),
        ({"soft_cap": math.inf}, "soft_cap must be finite and >= 0"),
        ({"window_left": -2}, r"window_size must be two numbers >= -1, got \(-2, -1\)"),
        ({"k": 72}, "k must begin on 16 bytes"),
        ({"q_stride": 65}, "q's token stride must be a multiple of 16 bytes .*, got 65 elements"),
        ({"q": 0}, "q must be a device pointer, got null"),
        ({"schedule": 0}, "schedule must be a device pointer, got null"),
    ]:
        with pytest.raises(ValueError, match=message):
            module.attention_varlen(**{**arguments, **change})
    module.attention_varlen(**{**arguments, "num_tokens": 0})
