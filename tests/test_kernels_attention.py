"""`attention_varlen` against float64: ragged, causal, grouped, cross lengths, windows, soft caps, every ISA; bitwise
batch invariance.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import reference
import reference_attention
from assay import ops

LENGTHS = [
    [0],
    [1],
    [0, 3, 0, 0, 1],
    [5, 6, 7, 1],  # around the blocks of query rows: 6, 14 or 16
    [13, 14, 15],
    [15, 16, 17, 31, 32, 33],  # around panels of keys
    [97, 0, 40, 255],
    [256, 257],  # around a tile of keys
    [700],
    [1, 1100, 2],
]
UNLIMITED = (-1, -1)
WINDOWS = [(0, 0), (8, 8), (31, 0), (64, -1), (-1, 5), (255, 256)]  # 256 is a tile, 32 a step in it
DTYPES = [torch.float32, torch.bfloat16]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
causal = pytest.mark.parametrize("is_causal", [False, True], ids=["bidirectional", "causal"])


class Case(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    cu_seqlens: Tensor
    cu_seqlens_k: Tensor


def make_case(
    lengths: list[int],
    dtype: torch.dtype = torch.float32,
    head_dim: int = 32,
    num_heads: int = 2,
    num_kv_heads: int | None = None,
    lengths_k: list[int] | None = None,
    seed: int = 0,
) -> Case:
    """Random q, k and v; large scores, so that softmax has something to subtract. k and v carry a mean."""
    lengths_k = lengths if lengths_k is None else lengths_k
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(sum(lengths), num_heads, head_dim, generator=generator) * 2
    k, v = (torch.randn(sum(lengths_k), num_kv_heads, head_dim, generator=generator) + 0.5 for _ in range(2))
    return Case(q.to(dtype), k.to(dtype), v.to(dtype), reference.cu_seqlens(lengths), reference.cu_seqlens(lengths_k))


def longest(cu_seqlens: Tensor) -> int:
    return int(cu_seqlens.diff().max()) if cu_seqlens.numel() > 1 else 0


def run(
    case: Case,
    is_causal: bool = False,
    softmax_scale: float | None = None,
    window_size: tuple[int, int] = UNLIMITED,
    soft_cap: float = 0.0,
) -> Tensor:
    """The kernel's answer, written over NaN."""
    return ops.attention_varlen(
        case.q,
        case.k,
        case.v,
        case.cu_seqlens,
        longest(case.cu_seqlens),
        cu_seqlens_k=case.cu_seqlens_k,
        max_seqlen_k=longest(case.cu_seqlens_k),
        is_causal=is_causal,
        softmax_scale=softmax_scale,
        window_size=window_size,
        soft_cap=soft_cap,
        out=torch.full(case.q.shape, float("nan"), dtype=case.q.dtype),
    )


def check(case: Case, is_causal: bool = False, **settings: Any) -> None:
    """Within twice the error of the plain form in the same dtype, plus the rounding floor."""
    dtype = case.q.dtype
    exact = reference_attention.attention(*case, is_causal=is_causal, **settings)
    base = reference_attention.attention(*case, is_causal=is_causal, dtype=dtype, **settings)
    error = reference.max_err(run(case, is_causal, **settings), exact)
    depth = case.q.shape[2] + longest(case.cu_seqlens_k)  # a score sums over head_dim, an output over keys
    assert error <= reference.budget(base, exact, depth)


@dtypes
@causal
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_attention_matches_float64(isa: str, lengths: list[int], is_causal: bool, dtype: torch.dtype) -> None:
    check(make_case(lengths, dtype), is_causal)


@dtypes
@pytest.mark.parametrize("head_dim", [8, 32, 40, 64, 72, 80, 96, 128, 256])
def test_attention_handles_head_dims(isa: str, head_dim: int, dtype: torch.dtype) -> None:
    for is_causal in (False, True):
        check(make_case([33, 1, 14, 97], dtype, head_dim), is_causal)
    check(make_case([270], dtype, head_dim, num_heads=1))


@dtypes
@causal
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 2), (6, 1), (12, 4)])
def test_attention_groups_queries(
    isa: str, num_heads: int, num_kv_heads: int, is_causal: bool, dtype: torch.dtype
) -> None:
    check(make_case([29, 0, 300, 16], dtype, 40, num_heads, num_kv_heads), is_causal)


@dtypes
@causal
def test_attention_takes_other_key_lengths(isa: str, is_causal: bool, dtype: torch.dtype) -> None:
    """Fewer keys than queries (the first causal rows see none), more, none at all, and keys without queries."""
    lengths, lengths_k = [20, 20, 5, 0, 1, 40, 1], [9, 33, 0, 4, 600, 2, 1]
    case = make_case(lengths, dtype, lengths_k=lengths_k)
    check(case, is_causal)
    out = run(case, is_causal)
    assert torch.equal(out[40:45], torch.zeros_like(out[40:45]))
    if is_causal:
        assert torch.equal(out[:11], torch.zeros_like(out[:11]))


@dtypes
def test_attention_reads_a_fused_buffer(isa: str, dtype: torch.dtype) -> None:
    """q, k and v as slices of one [num_tokens, 3, num_heads, head_dim] buffer; out inside a wider one."""
    lengths = [50, 1, 17]
    fused = torch.randn(68, 3, 4, 40, generator=torch.Generator().manual_seed(1)).to(dtype)
    offsets = reference.cu_seqlens(lengths)
    q, k, v = fused.unbind(1)
    wide = torch.full((68, 7, 40), float("nan"), dtype=dtype)
    ops.attention_varlen(q, k, v, offsets, 50, out=wide[:, 2:6])
    whole = Case(q.contiguous(), k.contiguous(), v.contiguous(), offsets, offsets)
    assert torch.equal(wide[:, 2:6], run(whole))
    assert wide[:, :2].isnan().all()
    assert wide[:, 6].isnan().all()
    assert torch.equal(ops.attention_varlen(q, k, v, offsets, 50), run(whole))


@pytest.mark.parametrize("softmax_scale", [1e-4, 0.5, 3.0])
def test_attention_uses_softmax_scale(isa: str, softmax_scale: float) -> None:
    check(make_case([40, 300]), softmax_scale=softmax_scale)


@dtypes
def test_attention_subtracts_the_maximum(isa: str, dtype: torch.dtype) -> None:
    """Scores of thousands, rising from tile to tile and falling: exp would overflow or vanish without it."""
    case = make_case([600], dtype)
    for slope in (torch.linspace(0, 60, 600), torch.linspace(60, 0, 600)):
        steep = case._replace(q=case.q.abs(), k=(case.k.abs() * slope[:, None, None]).to(dtype))
        check(steep)
        check(steep, is_causal=True)
    check(case._replace(k=torch.full_like(case.k, -100.0), q=case.q.abs()))


@dtypes
def test_attention_of_equal_values_is_that_value(isa: str, dtype: torch.dtype) -> None:
    """The weights of a row add up to one."""
    case = make_case([97, 300], dtype)
    out = run(case._replace(v=torch.full_like(case.v, 0.75)))
    # bfloat16: exact, rounded. float32: numerator and denominator add 300 terms up in different orders.
    assert (out - 0.75).abs().max() <= (2e-6 if dtype is torch.float32 else 0.0)


@dtypes
@causal
def test_attention_is_batch_invariant(isa: str, is_causal: bool, dtype: torch.dtype, restore_threads: None) -> None:
    lengths = [97, 1, 14, 0, 33, 300, 8, 29]
    case = make_case(lengths, dtype, 40, 4, 2)
    pieces = [x.split(lengths) for x in (case.q, case.k, case.v)]

    def batch(order: list[int]) -> list[Tensor]:
        parts = [torch.cat([piece[i] for i in order]) for piece in pieces]
        offsets = reference.cu_seqlens([lengths[i] for i in order])
        return list(run(Case(*parts, offsets, offsets), is_causal).split([lengths[i] for i in order]))

    ops.set_num_threads(1)
    alone = [batch([i])[0] for i in range(len(lengths))]
    for threads in (1, 2, 5):
        ops.set_num_threads(threads)
        for seed in range(3):
            order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed)).tolist() * (1 + seed)
            assert all(torch.equal(out, alone[i]) for i, out in zip(order, batch(order), strict=True))
        assert all(torch.equal(batch([i])[0], alone[i]) for i in range(len(lengths)))


@dtypes
def test_attention_of_some_queries_equals_all(isa: str, dtype: torch.dtype) -> None:
    """A query row by itself, or in another place of its block, gives the bits it gives among all rows."""
    case = make_case([300], dtype)
    whole = run(case)
    for first, last in [(0, 1), (299, 300), (5, 40), (13, 29), (100, 113)]:
        some = case._replace(q=case.q[first:last], cu_seqlens=reference.cu_seqlens([last - first]))
        assert torch.equal(run(some), whole[first:last])
    last_row = case._replace(q=case.q[-1:], cu_seqlens=reference.cu_seqlens([1]))
    assert torch.equal(run(last_row, is_causal=True), run(case, is_causal=True)[-1:])


@dtypes
@pytest.mark.parametrize(("first", "last"), [(0, 70), (240, 290)])
def test_attention_masks_change_no_bits(isa: str, first: int, last: int, dtype: torch.dtype) -> None:
    """A causal row, beside rows that see fewer and more keys, against the same row alone with only its keys."""
    case = make_case([last], dtype)
    rows = range(first, last)
    alone = Case(
        case.q[first:],
        torch.cat([case.k[: row + 1] for row in rows]),
        torch.cat([case.v[: row + 1] for row in rows]),
        reference.cu_seqlens([1 for _ in rows]),
        reference.cu_seqlens([row + 1 for row in rows]),
    )
    assert torch.equal(run(alone), run(case, is_causal=True)[first:])


@dtypes
@causal
@pytest.mark.parametrize("head_dim", [32, 40])  # 40 leaves part of a step to fill up
def test_attention_keeps_a_bad_sequence_to_itself(isa: str, head_dim: int, is_causal: bool, dtype: torch.dtype) -> None:
    lengths = [33, 5, 19, 64, 1]
    case = make_case(lengths, dtype, head_dim=head_dim)
    clean = run(case, is_causal)
    case.k[33:38], case.v[57:121], case.q[121] = float("inf"), float("nan"), float("nan")
    out = run(case, is_causal)
    assert torch.equal(out[:33], clean[:33])
    assert torch.equal(out[38:57], clean[38:57])
    assert not out[33:38].isfinite().any()
    assert out[57:122].isnan().all()


def test_attention_takes_no_sequences(isa: str) -> None:
    assert run(make_case([])).shape == (0, 2, 32)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_attention_refuses_a_wrong_scale(scale: float) -> None:
    q = torch.zeros(3, 1, 8)
    with pytest.raises(ValueError, match="softmax_scale must be finite and > 0"):
        ops.attention_varlen(q, q, q, torch.tensor([0, 3], dtype=torch.int32), 3, softmax_scale=scale)


@dtypes
@causal
@pytest.mark.parametrize("window_size", WINDOWS, ids=str)
def test_attention_slides_a_window(isa: str, window_size: tuple[int, int], is_causal: bool, dtype: torch.dtype) -> None:
    """Around the window's edges, the tiles of 256 keys and the steps of 32 in which keys before it are skipped."""
    check(make_case([0, 1, 7, 9, 33, 64, 300], dtype), is_causal, window_size=window_size)
    check(make_case([540], dtype, num_heads=1), is_causal, window_size=window_size)


@causal
@pytest.mark.parametrize("window_size", [(0, 0), (8, 3), (40, -1), (-1, 2)], ids=str)
def test_attention_windows_take_other_key_lengths(isa: str, window_size: tuple[int, int], is_causal: bool) -> None:
    """Queries stand at the last keys; those that stand before the first key may see none."""
    check(make_case([20, 20, 5, 0, 1, 40], lengths_k=[9, 33, 0, 4, 600, 2]), is_causal, window_size=window_size)


def test_attention_window_of_one_key_copies_its_value(isa: str) -> None:
    case = make_case([3, 70])
    # One weight, divided by itself: two roundings of the value.
    assert torch.allclose(run(case, window_size=(0, 0)), case.v, rtol=2.0**-22, atol=0)


def test_attention_window_as_long_as_the_sequence_changes_nothing(isa: str) -> None:
    case = make_case([300, 40])
    for is_causal in (False, True):
        assert torch.equal(run(case, is_causal, window_size=(299, 299)), run(case, is_causal))
    assert torch.equal(run(case, window_size=(-1, 0)), run(case, is_causal=True))


@dtypes
@causal
@pytest.mark.parametrize("soft_cap", [0.5, 20.0, 1e4])
def test_attention_caps_scores(isa: str, soft_cap: float, is_causal: bool, dtype: torch.dtype) -> None:
    check(make_case([17, 1, 300], dtype), is_causal, soft_cap=soft_cap, softmax_scale=1.5)
    check(make_case([290], dtype), is_causal, soft_cap=soft_cap, window_size=(30, 30))


@dtypes
@causal
def test_attention_with_window_and_cap_is_batch_invariant(
    isa: str, is_causal: bool, dtype: torch.dtype, restore_threads: None
) -> None:
    lengths = [97, 1, 0, 33, 600, 29]
    case = make_case(lengths, dtype, 40, 4, 2)
    pieces = [x.split(lengths) for x in (case.q, case.k, case.v)]
    settings: dict[str, Any] = {"is_causal": is_causal, "window_size": (50, 20), "soft_cap": 5.0}
    ops.set_num_threads(1)
    whole = run(case, **settings).split(lengths)
    for threads in (1, 2):
        ops.set_num_threads(threads)
        for i, length in enumerate(lengths):
            offsets = reference.cu_seqlens([length])
            alone = Case(pieces[0][i], pieces[1][i], pieces[2][i], offsets, offsets)
            assert torch.equal(run(alone, **settings), whole[i])


@dtypes
def test_attention_of_the_last_queries_equals_all_in_a_window(isa: str, dtype: torch.dtype) -> None:
    """The same row at another place of its block, whose window begins elsewhere."""
    case = make_case([600], dtype)
    whole = run(case, window_size=(40, 3))
    for count in (1, 2, 5, 13, 30, 301):
        last = case._replace(q=case.q[-count:], cu_seqlens=reference.cu_seqlens([count]))
        assert torch.equal(run(last, window_size=(40, 3)), whole[-count:])


def test_attention_refuses_wrong_windows_and_caps() -> None:
    case = make_case([3])
    for window_size, text in [((-2, 0), r"\(-2, 0\)"), ((0, -7), r"\(0, -7\)")]:
        with pytest.raises(ValueError, match=f"window_size must be two numbers >= -1, got {text}"):
            run(case, window_size=window_size)
    for soft_cap in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="soft_cap must be finite and >= 0"):
            run(case, soft_cap=soft_cap)
