"""The CUDA `attention_varlen` with attention_path="hopper": against float64, its bits, what a neighbour can do to them,
and which calls take it; emulated and on a card of compute capability 9.0.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import cuda_devices
import reference
from cuda_attention import Batch, check, launch, make_batch, make_schedule, run
from cuda_devices import Device

on_devices = pytest.mark.parametrize("device", cuda_devices.DEVICES)
dtypes = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
head_dims = pytest.mark.parametrize("head_dim", [64, 128])

WIDE = 512
"""As many queries and keys make a sequence wide; tiles of keys and blocks of rows have 128."""

SETTINGS: list[dict[str, Any]] = [
    {},
    {"is_causal": True},
    {"window_size": (200, 70)},
    {"is_causal": True, "window_size": (130, 5), "soft_cap": 5.0},
    {"alibi_slopes": torch.tensor([0.5, 0.0625])},
]
NAMES = ["plain", "causal", "window", "capped", "alibi"]


def run_hopper(device: Device, batch: Batch, **settings: Any) -> torch.Tensor:
    return run(device, batch, attention_path="hopper", **settings)


@on_devices
@dtypes
@head_dims
@pytest.mark.parametrize("settings", SETTINGS, ids=NAMES)
def test_hopper_attention_matches_float64(
    device: Device, head_dim: int, dtype: torch.dtype, settings: dict[str, Any]
) -> None:
    """One row more and one row less than tiles and blocks have, others beside them, two query heads to a key head."""
    check(device, make_batch([639, 20, 0, 641], dtype, head_dim, 2, 1), "hopper", **settings)


@on_devices
@pytest.mark.parametrize("length", [WIDE - 1, WIDE, WIDE + 1])
def test_hopper_attention_begins_at_a_length(device: Device, length: int) -> None:
    """From there on the bits are another kernel's; below, and on any other card, they are the portable one's."""
    batch = make_batch([length], torch.float16, 64)
    check(device, batch, "hopper")
    check(device, batch, "portable")
    portable = run(device, batch, attention_path="portable")
    is_hopper = length >= WIDE and device.module.sm() == 90
    assert torch.equal(run_hopper(device, batch), portable) != is_hopper


@on_devices
@pytest.mark.parametrize(("lengths", "lengths_k"), [([515, 40], [900, 70]), ([700, 3], [514, 0]), ([600], [100])])
@pytest.mark.parametrize("is_causal", [False, True], ids=["bidirectional", "causal"])
def test_hopper_attention_takes_other_key_lengths(
    device: Device, lengths: list[int], lengths_k: list[int], is_causal: bool
) -> None:
    """More keys than queries; fewer, so that the first causal rows and a whole warpgroup see none; too few."""
    batch = make_batch(lengths, torch.bfloat16, 64, 2, 1, lengths_k=lengths_k)
    check(device, batch, "hopper", is_causal=is_causal)
    if is_causal and lengths[0] == 700:
        assert torch.equal(run_hopper(device, batch, is_causal=True)[:186], torch.zeros(186, 2, 64).bfloat16())


@on_devices
@pytest.mark.parametrize("position", [-600, -130, 37, 2000])
def test_hopper_attention_takes_query_positions(device: Device, position: int) -> None:
    """Queries before the first key, some or all of them, in the middle, and behind the last."""
    batch = make_batch([550, 30], torch.float16, 64, lengths_k=[700, 90])
    positions = torch.tensor([position, 5], dtype=torch.int32)
    check(device, batch, "hopper", is_causal=True, query_positions=positions)
    check(device, batch, "hopper", query_positions=positions, window_size=(150, 20))


@on_devices
@dtypes
def test_hopper_attention_subtracts_the_maximum(device: Device, dtype: torch.dtype) -> None:
    """Scores of thousands that rise from tile to tile, and that fall."""
    batch = make_batch([600], dtype, 64, 1)
    for slope in (torch.linspace(0, 60, 600), torch.linspace(60, 0, 600)):
        steep = batch.changed(q=batch.q.abs(), k=(batch.k.abs() * slope[:, None, None]).to(dtype))
        check(device, steep, "hopper")
        check(device, steep, "hopper", is_causal=True)


@on_devices
@dtypes
@pytest.mark.parametrize("settings", SETTINGS, ids=NAMES)
def test_hopper_attention_is_batch_invariant(device: Device, dtype: torch.dtype, settings: dict[str, Any]) -> None:
    """Alone, in other orders and in other company, wide, long and short."""
    lengths = [530, 1, 700, 100, 17, 513]
    batch = make_batch(lengths, dtype, 64, 2, 1)
    alone = [run_hopper(device, batch.take([i]), **settings) for i in range(len(lengths))]
    for seed in range(2):
        order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed)).tolist()
        out = run_hopper(device, batch.take(order), **settings).split([lengths[i] for i in order])
        assert all(torch.equal(row, alone[i]) for i, row in zip(order, out, strict=True))


@on_devices
@head_dims
@pytest.mark.parametrize("length", [513, 576, 640])
def test_hopper_attention_keeps_a_bad_neighbour_out(device: Device, length: int, head_dim: int) -> None:
    """The copies of the last tile read what follows the sequence: NaN and infinity there must not show."""
    lengths = [550, length, 700]
    batch = make_batch(lengths, torch.bfloat16, head_dim, 1)
    clean = run_hopper(device, batch)
    middle = slice(550, 550 + length)
    for bad in (float("nan"), float("inf")):
        for x in (batch.q, batch.k, batch.v):
            x[:550], x[550 + length :] = bad, bad
        assert torch.equal(run_hopper(device, batch)[middle], clean[middle])


@on_devices
def test_hopper_attention_serves_fewer_rows_than_there_are(device: Device) -> None:
    """As a replayed graph's launch: memory for more tokens, with NaN behind those that count, left as they are."""
    batch = make_batch([600, 40], torch.float16, 64)
    once = run_hopper(device, batch)
    q, k, v = (torch.full((900, 2, 64), float("nan"), dtype=torch.float16) for _ in range(3))
    q[:640], k[:640], v[:640] = batch.q, batch.k, batch.v
    offsets = torch.full((8,), 640, dtype=torch.int32)
    offsets[:3] = batch.cu_seqlens
    q, k, v, offsets = (device.put(x) for x in (q, k, v, offsets))
    out = torch.full_like(q, 7.0)
    schedule = make_schedule(device, offsets, offsets, 900)
    for _ in range(2):
        launch(device, q, k, v, out, schedule, 7, attention_path="hopper")
        assert torch.equal(out[:640].cpu(), once)
        assert (out[640:] == 7.0).all()


@on_devices
def test_hopper_attention_reads_a_fused_buffer(device: Device) -> None:
    """q, k and v as slices of one [num_tokens, 3, num_heads, head_dim] buffer; out inside a wider one."""
    lengths = [530, 20]
    fused = torch.randn(550, 3, 2, 64, generator=torch.Generator().manual_seed(1)).half()
    q, k, v = fused.unbind(1)
    whole = run_hopper(device, Batch(q.contiguous(), k.contiguous(), v.contiguous(), lengths, lengths))
    wide = torch.full((550, 4, 64), float("nan"), dtype=torch.float16, device=device.torch_device)
    q, k, v = device.put(fused).unbind(1)
    offsets = device.put(reference.cu_seqlens(lengths))
    launch(device, q, k, v, wide[:, 1:3], make_schedule(device, offsets, offsets, 550), 2, attention_path="hopper")
    assert torch.equal(wide[:, 1:3].cpu(), whole)
    assert wide[:, ::3].isnan().all()


@on_devices
def test_hopper_attention_leaves_other_calls_to_the_portable_kernel(device: Device) -> None:
    """float32, other heads, and every call that does not ask for it."""
    for batch in (make_batch([520], torch.float32, 64, 1), make_batch([520], torch.float16, 80, 1)):
        assert torch.equal(run_hopper(device, batch), run(device, batch, attention_path="portable"))
    batch = make_batch([520], torch.float16, 64, 1)
    assert torch.equal(run(device, batch), run(device, batch, attention_path="portable"))
