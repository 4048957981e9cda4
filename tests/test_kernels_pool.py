"""`pool` against float64 on ragged batches; bitwise batch invariance; empty sequences are refused."""

from __future__ import annotations

import pytest
import torch

import reference
from assay import ops

POOLINGS = ("cls", "last_token", "mean")


def make_case(lengths: list[int], hidden_size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(sum(lengths), hidden_size, generator=torch.Generator().manual_seed(seed))


def run(hidden_states: torch.Tensor, lengths: list[int], pooling: str) -> torch.Tensor:
    out = reference.poisoned(len(lengths), hidden_states.shape[1])
    return ops.pool(hidden_states, reference.cu_seqlens(lengths), pooling, out=out)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("lengths", reference.RAGGED_LENGTHS, ids=str)
def test_pool_matches_float64(isa: str, lengths: list[int], pooling: str) -> None:
    for hidden_size in (1, 15, 16, 17, 65, 100, 384):
        x = make_case(lengths, hidden_size)
        exact, base = reference.pool(x.double(), lengths, pooling), reference.pool(x, lengths, pooling)
        out = run(x, lengths, pooling)
        assert reference.max_err(out, exact) <= reference.budget(base, exact)
        if pooling != "mean":
            assert torch.equal(out, base)


def test_pool_mean_of_a_long_sequence_stays_accurate(isa: str) -> None:
    """Sums that reach far above the values: one running total would lose four digits."""
    x = make_case([20000], 40).abs() + 1
    exact = reference.pool(x.double(), [20000], "mean")
    assert reference.max_err(run(x, [20000], "mean"), exact) <= 1e-6 * exact.abs().max().item()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pool_accepts_strided_tokens(isa: str, pooling: str) -> None:
    wide = make_case([5, 9], 100)
    assert torch.equal(run(wide[:, 20:60], [5, 9], pooling), run(wide[:, 20:60].contiguous(), [5, 9], pooling))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pool_is_batch_invariant(isa: str, pooling: str, restore_threads: None) -> None:
    lengths = [300, 1, 47, 128, 33, 700, 16, 5, 2, 64]
    x = make_case(lengths, 200)
    parts = x.split(lengths)
    ops.set_num_threads(1)
    whole = run(x, lengths, pooling)
    order = [7, 3, 9, 0, 5, 1, 2, 8, 4, 6]
    shuffled, shuffled_lengths = torch.cat([parts[i] for i in order]), [lengths[i] for i in order]
    for threads in (1, 2, 3):
        ops.set_num_threads(threads)
        assert torch.equal(run(x, lengths, pooling), whole)
        assert torch.equal(run(shuffled, shuffled_lengths, pooling), whole[order])
        for i, part in enumerate(parts):
            assert torch.equal(run(part, [lengths[i]], pooling)[0], whole[i])


def test_pool_of_no_sequences_is_empty(isa: str) -> None:
    for pooling in POOLINGS:
        assert ops.pool(torch.empty(0, 32), torch.zeros(1, dtype=torch.int32), pooling).shape == (0, 32)


def test_pool_keeps_a_bad_sequence_to_itself(isa: str) -> None:
    lengths = [40, 3, 9]
    x = make_case(lengths, 50)
    clean = run(x, lengths, "mean")
    x[41] = float("nan")
    out = run(x, lengths, "mean")
    assert out[1].isnan().all()
    assert torch.equal(out[[0, 2]], clean[[0, 2]])


def test_pool_refuses_wrong_arguments() -> None:
    x = make_case([4, 6], 32)
    good = reference.cu_seqlens([4, 6])
    with pytest.raises(ValueError, match="sequence 1 is empty: pooling needs at least one token"):
        ops.pool(x, reference.cu_seqlens([4, 0, 6]), "mean")
    with pytest.raises(ValueError, match="cu_seqlens must end at num_tokens = 10, got 9"):
        ops.pool(x, reference.cu_seqlens([4, 5]), "mean")
    with pytest.raises(ValueError, match="cu_seqlens must start at 0, got 1"):
        ops.pool(x, good + 1, "mean")
    with pytest.raises(ValueError, match="cu_seqlens must not fall, got 12 then 10 at index 2"):
        ops.pool(x, torch.tensor([0, 12, 10], dtype=torch.int32), "mean")
    with pytest.raises(ValueError, match=r"cu_seqlens must be .*, got torch.int64"):
        ops.pool(x, good.long(), "mean")
    with pytest.raises(ValueError, match="pooling='max': choose one of cls, last_token, mean"):
        ops.pool(x, good, "max")
    with pytest.raises(ValueError, match="hidden_states must be float32, got bfloat16"):
        ops.pool(x.bfloat16(), good, "mean")
    with pytest.raises(ValueError, match=r"out must have shape \[2, 32\], got \[3, 32\]"):
        ops.pool(x, good, "mean", out=torch.empty(3, 32))
