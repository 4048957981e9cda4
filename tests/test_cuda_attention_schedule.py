"""The work list of the CUDA attention: complete, longest first, good for several launches and for a captured graph's
other contents; and the host's numbers for a kernel and its grid.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import cuda_devices
import reference
from cuda_attention import launch, make_batch, make_schedule, run
from cuda_devices import Device

on_devices = pytest.mark.parametrize("device", cuda_devices.DEVICES)
on_modules = pytest.mark.parametrize("module", cuda_devices.MODULES)

HEADER = 8
"""int32 before the entries: num_wide, num_long, num_short, next_work, num_finished, three unused."""

WIDE = 512
"""As many queries and keys make a sequence wide."""


def read(schedule: torch.Tensor) -> list[list[tuple[int, ...]]]:
    """The wide, the long and the short entries: (seq, block, first_query, num_queries, first_key, num_keys)."""
    header, rest = schedule.cpu().view(torch.int32).split([HEADER, schedule.numel() // 4 - HEADER])
    num_wide, num_long, num_short, next_work, num_finished = header.tolist()[:5]
    assert (next_work, num_finished) == (0, 0)
    entries = [tuple(entry[:6]) for entry in rest.view(-1, 8).tolist()]
    num_not_short = num_wide + num_long
    return [entries[:num_wide], entries[num_wide:num_not_short], entries[num_not_short : num_not_short + num_short]]


@on_devices
@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_schedule_has_every_row_once(device: Device, is_causal: bool) -> None:
    lengths = [0, 1, 700, 16, 17, 32, 33, 0, 64, 65, 200, *range(70), 511, 512, 513, 640, 512, 600]
    lengths_k = [length * 3 % 500 for length in lengths[:-6]] + [900, 512, 513, 9000, 511, 800]
    cu_seqlens, cu_seqlens_k = (reference.cu_seqlens(x) for x in (lengths, lengths_k))
    schedule = make_schedule(
        device, device.put(cu_seqlens), device.put(cu_seqlens_k), sum(lengths), is_causal=is_causal
    )
    rows: list[tuple[int, int]] = []
    for kind, (entries, block_rows) in enumerate(zip(read(schedule), (128, 64, 16), strict=True)):
        assert entries
        work = []
        for seq, block, first_query, num_queries, first_key, num_keys in entries:
            assert (num_queries, num_keys) == (lengths[seq], lengths_k[seq])
            assert (first_query, first_key) == (int(cu_seqlens[seq]), int(cu_seqlens_k[seq]))
            assert kind == (0 if min(num_queries, num_keys) >= WIDE else 1 if num_queries > 32 else 2)
            first, last = block * block_rows, min((block + 1) * block_rows, num_queries)
            rows += [(seq, row) for row in range(first, last)]
            seen = num_keys - num_queries + (block + 1) * block_rows
            work.append(min(127, max(0, min(num_keys, seen)) // 64 if is_causal else num_keys // 64))
        assert work == sorted(work, reverse=True)
    assert sorted(rows) == [(seq, row) for seq, length in enumerate(lengths) for row in range(length)]


@on_devices
def test_attention_schedule_serves_many_launches(device: Device) -> None:
    batch = make_batch([40, 3, 100, 7], torch.bfloat16)
    once = run(device, batch)
    q, k, v, offsets = (device.put(x) for x in (batch.q, batch.k, batch.v, batch.cu_seqlens))
    schedule = make_schedule(device, offsets, offsets, q.shape[0])
    for _ in range(3):
        out = torch.full_like(q, float("nan"))
        launch(device, q, k, v, out, schedule, 4)
        assert torch.equal(out.cpu(), once)
        read(schedule)


@on_devices
def test_attention_follows_lengths_that_only_the_device_knows(device: Device) -> None:
    """A graph's launch is sized for its most tokens and sequences: fewer of both, and rows behind them, do no harm."""
    batch = make_batch([40, 3, 21], torch.float16)
    once = run(device, batch)
    most_tokens, most_seqs = 200, 9
    q, k, v = (torch.full((most_tokens, 2, 32), float("nan"), dtype=torch.float16) for _ in range(3))
    q[:64], k[:64], v[:64] = batch.q, batch.k, batch.v
    offsets = torch.full((most_seqs + 1,), 64, dtype=torch.int32)
    offsets[:4] = batch.cu_seqlens
    q, k, v, offsets = (device.put(x) for x in (q, k, v, offsets))
    out = torch.full_like(q, 7.0)
    launch(device, q, k, v, out, make_schedule(device, offsets, offsets, most_tokens), most_seqs)
    assert torch.equal(out[:64].cpu(), once)
    assert (out[64:] == 7.0).all()


@on_modules
def test_attention_schedule_size_holds_any_lengths(module: Any) -> None:
    """32 bytes and 32 an entry; no lengths of as many tokens and sequences have more entries."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        num_seqs = int(torch.randint(1, 40, (1,), generator=generator))
        lengths = torch.randint(0, 90, (num_seqs,), generator=generator).tolist()
        entries = sum(-(-length // (16 if length <= 32 else 64)) for length in lengths)
        assert module.attention_schedule_size(num_tokens=sum(lengths), num_seqs=num_seqs) >= 32 + 32 * entries
    assert module.attention_schedule_size(num_tokens=0, num_seqs=0) == 32
    with pytest.raises(ValueError, match="num_tokens must be 0 to 536870911, got -1"):
        module.attention_schedule_size(num_tokens=-1, num_seqs=0)


@on_modules
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_attention_tiling_fits_every_card(module: Any, dtype: str) -> None:
    """99 KiB is what a block may have on sm_86, less 1 KiB of static shared memory."""
    for head_dim in range(8, 257, 8):
        tiling = module.attention_tiling(dtype, head_dim)
        assert head_dim <= tiling["head_dim"] <= max(2 * head_dim, 64)
        assert tiling["shared_bytes"] <= 98 * 1024
        assert tiling["row_bytes"] // 16 % 2 == 1  # eight rows fall on all banks
        assert tiling["num_stages"] & (tiling["num_stages"] - 1) == 0


@on_modules
def test_attention_grid_is_the_card_or_the_work(module: Any) -> None:
    sizes = {"dtype": "float16", "head_dim": 64, "num_heads": 12, "num_sms": 108}
    per_sm = module.attention_tiling("float16", 64)["blocks_per_sm"]
    assert module.attention_grid(**sizes, num_tokens=16384, num_seqs=100) == 108 * per_sm
    assert module.attention_grid(**sizes, num_tokens=20, num_seqs=2) == 3 * 12
    assert module.attention_grid(**sizes, num_tokens=0, num_seqs=2) == 0
