"""`causal_conv1d` against float64 on ragged batches; sequences keep to themselves, bitwise and with bad numbers."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

import reference
from assay import ops

LENGTHS = [*reference.RAGGED_LENGTHS, [0, 3, 0, 0, 33, 1, 0], [2, 1, 4]]


def make_case(num_tokens: int, num_channels: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and bias."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(num_tokens, num_channels, generator=generator),
        torch.randn(width, num_channels, generator=generator),
        torch.randn(num_channels, generator=generator),
    )


@functools.cache
def known(lengths: tuple[int, ...], num_channels: int, width: int) -> tuple[Tensor, Tensor]:
    """The exact answer and that of float32 torch; the same for every instruction set."""
    x, weight, bias = make_case(sum(lengths), num_channels, width)
    exact = reference.causal_conv1d(x.double(), weight.double(), bias.double(), list(lengths))
    return exact, reference.causal_conv1d(x, weight, bias, list(lengths))


def run(case: tuple[Tensor, Tensor, Tensor | None], lengths: list[int], activation: str = "none") -> Tensor:
    out = reference.poisoned(*case[0].shape)
    return ops.causal_conv1d(*case, reference.cu_seqlens(lengths), activation=activation, out=out)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("width", [1, 2, 4, 9])
def test_causal_conv1d_matches_float64(isa: str, lengths: list[int], width: int) -> None:
    """Widths up to more than most sequences have tokens."""
    for num_channels in (1, 15, 16, 33, 65, 130):
        case = make_case(sum(lengths), num_channels, width)
        exact, base = known(tuple(lengths), num_channels, width)
        assert reference.max_err(run(case, lengths), exact) <= reference.budget(base, exact, width)


@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
@pytest.mark.parametrize("has_bias", [True, False])
def test_causal_conv1d_activates(isa: str, activation: str, has_bias: bool) -> None:
    lengths = [7, 1, 20]
    x, weight, bias = make_case(sum(lengths), 37, 4)
    given = bias if has_bias else None
    doubled = bias.double() if has_bias else None
    exact = reference.causal_conv1d(x.double(), weight.double(), doubled, lengths, activation)
    base = reference.causal_conv1d(x, weight, given, lengths, activation)
    assert reference.max_err(run((x, weight, given), lengths, activation), exact) <= reference.budget(base, exact, 4)


def test_causal_conv1d_reads_and_writes_strided_tokens(isa: str) -> None:
    """What lies beside the channels stays as it is."""
    lengths = [5, 9, 2]
    wide, weight, bias = make_case(sum(lengths), 90, 4)
    x, weight, bias = wide[:, 20:61], weight[:, 20:61].contiguous(), bias[20:61]
    out = reference.poisoned(sum(lengths), 60)
    ops.causal_conv1d(x, weight, bias, reference.cu_seqlens(lengths), out=out[:, 7:48])
    assert torch.equal(out[:, 7:48], run((x.contiguous(), weight, bias), lengths))
    assert out[:, :7].isnan().all() and out[:, 48:].isnan().all()


def test_causal_conv1d_is_batch_invariant(isa: str, restore_threads: None) -> None:
    lengths = [300, 1, 47, 128, 33, 700, 16, 0, 2, 64]
    x, weight, bias = make_case(sum(lengths), 200, 4)
    parts = x.split(lengths)
    ops.set_num_threads(1)
    whole = run((x, weight, bias), lengths, "silu").split(lengths)
    order = [7, 3, 9, 0, 5, 1, 2, 8, 4, 6]
    shuffled, shuffled_lengths = torch.cat([parts[i] for i in order]), [lengths[i] for i in order]
    for threads in (1, 2, 3):
        ops.set_num_threads(threads)
        again = run((shuffled, weight, bias), shuffled_lengths, "silu").split(shuffled_lengths)
        for i, out in zip(order, again, strict=True):
            assert torch.equal(out, whole[i])
        for part, length, out in zip(parts, lengths, whole, strict=True):
            assert torch.equal(run((part, weight, bias), [length], "silu"), out)


def test_causal_conv1d_never_sees_what_comes_later_or_before_the_sequence(isa: str) -> None:
    lengths = [6, 5, 8]
    x, weight, bias = make_case(sum(lengths), 50, 4)
    clean = run((x, weight, bias), lengths)
    x[7] = float("nan")  # the second token of the second sequence
    out = run((x, weight, bias), lengths)
    assert out[7:11].isnan().all()
    assert torch.equal(out[:7], clean[:7]) and torch.equal(out[11:], clean[11:])


def test_causal_conv1d_of_no_tokens_is_empty(isa: str) -> None:
    _, weight, bias = make_case(0, 32, 4)
    for lengths in ([], [0, 0]):
        assert run((torch.empty(0, 32), weight, bias), lengths).shape == (0, 32)


def test_causal_conv1d_refuses_wrong_arguments() -> None:
    x, weight, bias = make_case(10, 32, 4)
    ends = reference.cu_seqlens([4, 6])
    with pytest.raises(ValueError, match=r"x must have shape \[\*, \*\], got \[320\]"):
        ops.causal_conv1d(x.flatten(), weight, bias, ends)
    with pytest.raises(ValueError, match="x must be float32, got bfloat16"):
        ops.causal_conv1d(x.bfloat16(), weight, bias, ends)
    with pytest.raises(ValueError, match="x must be contiguous in its last dimension, got stride 10"):
        ops.causal_conv1d(torch.empty(32, 10).T, weight, bias, ends, out=torch.empty(10, 32))
    with pytest.raises(ValueError, match=r"weight must have shape \[\*, 32\], got \[4, 31\]"):
        ops.causal_conv1d(x, weight[:, 1:], bias, ends)
    with pytest.raises(ValueError, match="weight must be contiguous"):
        ops.causal_conv1d(x, torch.empty(4, 40)[:, :32], bias, ends)
    with pytest.raises(ValueError, match="weight must have at least one row"):
        ops.causal_conv1d(x, weight[:0], bias, ends)
    with pytest.raises(ValueError, match=r"bias must have shape \[32\], got \[31\]"):
        ops.causal_conv1d(x, weight, bias[1:], ends)
    with pytest.raises(ValueError, match="cu_seqlens must end at num_tokens = 10, got 4"):
        ops.causal_conv1d(x, weight, bias, ends[:2])
    with pytest.raises(ValueError, match="activation='swish': choose one of none, gelu"):
        ops.causal_conv1d(x, weight, bias, ends, activation="swish")
    with pytest.raises(ValueError, match=r"out must have shape \[10, 32\], got \[9, 32\]"):
        ops.causal_conv1d(x, weight, bias, ends, out=torch.empty(9, 32))
    buffer = torch.zeros(11, 32)
    for out in (buffer[:10], buffer[1:]):
        with pytest.raises(ValueError, match="out must not share memory with x"):
            ops.causal_conv1d(buffer[:10], weight, bias, ends, out=out)
