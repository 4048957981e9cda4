"""`selective_scan` against float64 on ragged batches: every state, its decay, the gate; bitwise batch invariance."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import reference
from assay import ops

LENGTHS = [*reference.RAGGED_LENGTHS, [0, 3, 0, 0, 33, 1, 0]]
SIZES = [(1, 16), (15, 4), (33, 5), (65, 16), (130, 1), (17, 64)]
"""num_channels and state_size: below, at and past a block of channels, and of the states taken at a time."""


@dataclass(frozen=True)
class Case:
    """The arguments of `selective_scan`, with a gate."""

    u: Tensor
    delta: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor
    z: Tensor

    @classmethod
    def make(cls, num_tokens: int, num_channels: int, state_size: int, seed: int = 0) -> Case:
        generator = torch.Generator().manual_seed(seed)

        def randn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        u, z = randn(num_tokens, num_channels), randn(num_tokens, num_channels)
        # States that last for hundreds of tokens beside some that are gone after one.
        a = -torch.exp(randn(state_size, num_channels) * 3 - 2)
        delta, b, c = 2 * randn(num_tokens, num_channels), randn(num_tokens, state_size), randn(num_tokens, state_size)
        return cls(u, delta, a, b, c, randn(num_channels), z)

    def part(self, first: int, last: int) -> Case:
        """Some of the tokens."""
        rows = {name: getattr(self, name)[first:last] for name in ("u", "delta", "b", "c", "z")}
        return replace(self, **rows)

    def plain(self, lengths: list[int], dtype: torch.dtype, *, has_gate: bool = True) -> Tensor:
        tensors = (getattr(self, name).to(dtype) for name in ("u", "delta", "a", "b", "c", "d"))
        return reference.selective_scan(*tensors, lengths, self.z.to(dtype) if has_gate else None)

    def run(self, lengths: list[int], *, has_gate: bool = True, out: Tensor | None = None) -> Tensor:
        out = reference.poisoned(*self.u.shape) if out is None else out
        z = self.z if has_gate else None
        ends = reference.cu_seqlens(lengths)
        return ops.selective_scan(self.u, self.delta, self.a, self.b, self.c, self.d, ends, z=z, out=out)


@functools.cache
def known(lengths: tuple[int, ...], num_channels: int, state_size: int) -> tuple[Case, Tensor, float]:
    """A case, its exact answer, and how far off ours may be; the same for every instruction set."""
    case = Case.make(sum(lengths), num_channels, state_size)
    exact = case.plain(list(lengths), torch.float64)
    return case, exact, reference.budget(case.plain(list(lengths), torch.float32), exact, state_size)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_selective_scan_matches_float64(isa: str, lengths: list[int]) -> None:
    for num_channels, state_size in SIZES:
        case, exact, budget = known(tuple(lengths), num_channels, state_size)
        assert reference.max_err(case.run(lengths), exact) <= budget


def test_selective_scan_without_a_gate(isa: str) -> None:
    lengths = [9, 1, 30]
    case = Case.make(40, 50, 6)
    exact, base = (case.plain(lengths, dtype, has_gate=False) for dtype in (torch.float64, torch.float32))
    assert reference.max_err(case.run(lengths, has_gate=False), exact) <= reference.budget(base, exact, 6)


def steps(delta: Tensor) -> Tensor:
    """softplus(delta) for delta [n]: n sequences of one token whose state takes up the step and nothing else."""
    n = len(delta)
    ones, zero = torch.ones(n, 1), torch.zeros(1, 1)
    ends = torch.arange(n + 1, dtype=torch.int32)
    return ops.selective_scan(ones, delta[:, None].contiguous(), zero, ones, ones, zero[0], ends)[:, 0]


def test_selective_scan_takes_accurate_steps(isa: str) -> None:
    """Small ones too: they are what a state that lasts is made of."""
    generator = torch.Generator().manual_seed(0)
    delta = torch.cat([torch.linspace(-87, 100, 20001), torch.randn(20000, generator=generator) * 3])
    exact = torch.logaddexp(delta.double(), torch.zeros(1, dtype=torch.float64))
    assert ((steps(delta) - exact).abs() / exact).max().item() <= 3e-7


def test_selective_scan_steps_at_the_ends(isa: str) -> None:
    delta = torch.tensor([-float("inf"), -3e38, -1e3, 1e3, 3e38, float("nan")])
    out = steps(delta)
    assert torch.equal(out[:5], delta[:5].clamp(min=0))
    assert out[5].isnan()


def test_selective_scan_keeps_a_state_that_does_not_decay(isa: str) -> None:
    """Twenty thousand tokens into one sum, and the state beside it that is gone after each."""
    n, num_channels = 20000, 3
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(n, num_channels, generator=generator)
    a = torch.tensor([0.0, -1e30])[:, None].repeat(1, num_channels)
    ones, zeros = torch.ones(n, 2), torch.zeros(num_channels)
    out = ops.selective_scan(u, torch.zeros_like(u), a, ones, ones, zeros, reference.cu_seqlens([n]))
    step = torch.log(torch.tensor(2.0, dtype=torch.float64))
    taken = step.float() * u
    exact = step * (u.double().cumsum(0) + u.double())
    one_by_one = torch.from_numpy(taken.numpy().cumsum(axis=0)) + taken  # torch would sum in double
    assert reference.max_err(out, exact) <= reference.budget(one_by_one, exact)


def test_selective_scan_reads_and_writes_strided_tokens(isa: str) -> None:
    lengths = [5, 9, 2]
    case = Case.make(16, 41, 7)
    wide = torch.full((16, 300), 9.0)
    places = {"u": 3, "delta": 50, "b": 110, "c": 130, "z": 150}
    for name, first in places.items():
        wide[:, first : first + getattr(case, name).shape[1]] = getattr(case, name)
    views = {name: wide[:, first : first + getattr(case, name).shape[1]] for name, first in places.items()}
    out = reference.poisoned(16, 60)
    replace(case, **views).run(lengths, out=out[:, 7:48])
    assert torch.equal(out[:, 7:48], case.run(lengths))
    assert out[:, :7].isnan().all() and out[:, 48:].isnan().all()


@pytest.mark.parametrize("name", ["u", "delta", "z"])
def test_selective_scan_may_write_over_what_it_reads(isa: str, name: str) -> None:
    lengths = [20, 0, 13]
    case = Case.make(33, 70, 16)
    expected = case.run(lengths)
    assert torch.equal(case.run(lengths, out=getattr(case, name)), expected)


def test_selective_scan_is_batch_invariant(isa: str, restore_threads: None) -> None:
    lengths = [120, 1, 47, 65, 33, 200, 16, 0, 2, 64]
    case = Case.make(sum(lengths), 90, 6)
    ends = reference.cu_seqlens(lengths).tolist()
    parts = [case.part(first, last) for first, last in pairwise(ends)]
    ops.set_num_threads(1)
    whole = case.run(lengths).split(lengths)
    order = [7, 3, 9, 0, 5, 1, 2, 8, 4, 6]
    rows = {name: torch.cat([getattr(parts[i], name) for i in order]) for name in ("u", "delta", "b", "c", "z")}
    shuffled, shuffled_lengths = replace(case, **rows), [lengths[i] for i in order]
    for threads in (1, 2, 3):
        ops.set_num_threads(threads)
        for i, out in zip(order, shuffled.run(shuffled_lengths).split(shuffled_lengths), strict=True):
            assert torch.equal(out, whole[i])
        for part, length, out in zip(parts, lengths, whole, strict=True):
            assert torch.equal(part.run([length]), out)


def test_selective_scan_keeps_a_bad_number_to_its_channel_and_sequence(isa: str) -> None:
    lengths = [6, 5, 8]
    case = Case.make(19, 50, 4)
    clean = case.run(lengths)
    case.u[8, 20] = float("nan")
    out = case.run(lengths)
    assert out[8:11, 20].isnan().all()
    out[8:11, 20] = clean[8:11, 20]
    assert torch.equal(out, clean)


def test_selective_scan_of_no_tokens_is_empty(isa: str) -> None:
    for lengths in ([], [0, 0]):
        assert Case.make(0, 32, 4).run(lengths).shape == (0, 32)


def test_selective_scan_refuses_wrong_arguments() -> None:
    case, lengths = Case.make(10, 32, 4), [4, 6]
    places, half = (torch.tensor([2, 3]), torch.tensor([7, 1])), torch.tensor(0.5)
    wrong = {
        r"u must have shape \[\*, \*\], got \[320\]": replace(case, u=case.u.flatten()),
        r"delta must have shape \[10, 32\], got \[10, 31\]": replace(case, delta=case.delta[:, 1:]),
        "delta must be float32, got bfloat16": replace(case, delta=case.delta.bfloat16()),
        r"a must have shape \[\*, 32\], got \[4, 31\]": replace(case, a=case.a[:, 1:]),
        "a must be contiguous, got stride": replace(case, a=torch.zeros(4, 40)[:, :32]),
        "state_size must be 1 to 64, got 65": replace(case, a=torch.zeros(65, 32)),
        "state_size must be 1 to 64, got 0": replace(case, a=torch.zeros(0, 32)),
        r"a must not be above 0, got 0.5 at \[2, 7\]": replace(case, a=case.a.clone().index_put_(places, half)),
        r"b must have shape \[10, 4\], got \[9, 4\]": replace(case, b=case.b[1:]),
        r"c must have shape \[10, 4\], got \[10, 3\]": replace(case, c=case.c[:, 1:]),
        r"d must have shape \[32\], got \[31\]": replace(case, d=case.d[1:]),
        r"z must have shape \[10, 32\], got \[10, 31\]": replace(case, z=case.z[:, 1:]),
        "z must be contiguous in its last dimension, got stride 10": replace(case, z=torch.zeros(32, 10).T),
    }
    for message, changed in wrong.items():
        with pytest.raises(ValueError, match=message):
            changed.run(lengths, out=torch.empty(10, 32))
    with pytest.raises(ValueError, match="cu_seqlens must end at num_tokens = 10, got 9"):
        case.run([4, 5])
    with pytest.raises(ValueError, match=r"out must have shape \[10, 32\], got \[10, 33\]"):
        case.run(lengths, out=torch.empty(10, 33))
