"""`rotary` against float64: both orders, partial widths, per-head norms, fused buffers; bitwise batch invariance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import reference
from assay import ops

NUM_POSITIONS = 50
DTYPES = [torch.float32, torch.bfloat16]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
orders = pytest.mark.parametrize("is_interleaved", [False, True], ids=["halves", "pairs"])


def make_tables(rotary_dim: int) -> tuple[Tensor, Tensor]:
    angles = torch.arange(NUM_POSITIONS)[:, None] * 100.0 ** -torch.linspace(0, 1, rotary_dim // 2)
    return angles.cos(), angles.sin()


def make_buffer(num_tokens: int, num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> Tensor:
    """[num_tokens, q heads + k heads + v heads, head_dim]"""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(num_tokens, num_heads + 2 * num_kv_heads, head_dim, generator=generator).to(dtype)


def make_positions(num_tokens: int) -> Tensor:
    return torch.randint(NUM_POSITIONS, (num_tokens,), generator=torch.Generator().manual_seed(3)).int()


def expected(
    x: Tensor, tables: tuple[Tensor, Tensor], positions: Tensor, is_interleaved: bool, norm: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The float64 answer and that of float32 torch on the same numbers."""
    answers = []
    for dtype in (torch.float64, torch.float32):
        head = x.to(dtype) if norm is None else reference.rms_norm(x.to(dtype), norm.to(dtype), 1e-6)
        cos, sin = (table.to(dtype) for table in tables)
        answers.append(reference.rotary(head, cos, sin, positions, is_interleaved))
    return answers[0], answers[1]


@dtypes
@orders
@pytest.mark.parametrize("has_norms", [False, True], ids=["plain", "norms"])
@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(8, 8), (16, 6), (64, 64), (80, 20), (128, 128), (256, 254)])
def test_rotary_matches_float64(
    isa: str, head_dim: int, rotary_dim: int, has_norms: bool, is_interleaved: bool, dtype: torch.dtype
) -> None:
    """In place inside a fused buffer; what is neither q nor k, nor within rotary_dim, stays as it is."""
    tables, positions = make_tables(rotary_dim), make_positions(19)
    before = make_buffer(19, 4, 2, head_dim, dtype)
    norms = [torch.linspace(0.5, 2, head_dim), torch.linspace(2, 0.5, head_dim)] if has_norms else [None, None]
    buffer = before.clone()
    q, k, _ = buffer.split([4, 2, 2], dim=1)
    ops.rotary(q, k, *tables, positions, is_interleaved=is_interleaved, q_norm=norms[0], k_norm=norms[1], epsilon=1e-6)
    for part, old, norm in zip((q, k), before.split([4, 2, 2], dim=1)[:2], norms, strict=True):
        exact, base = expected(old, tables, positions, is_interleaved, norm)
        budget = reference.budget(base, exact)
        if dtype is torch.bfloat16:
            budget += 2.0**-8 * exact.abs().max().item()  # half a step of the stored result
        assert reference.max_err(part, exact) <= budget
        if norm is None:
            assert torch.equal(part[..., rotary_dim:], old[..., rotary_dim:])
    assert torch.equal(buffer[:, 6:], before[:, 6:])


@dtypes
@orders
def test_rotary_is_batch_invariant(isa: str, is_interleaved: bool, dtype: torch.dtype, restore_threads: None) -> None:
    tables, positions, norm = make_tables(40), make_positions(300), torch.linspace(0.5, 2, 40)

    def turn(first: int, last: int) -> Tensor:
        buffer = make_buffer(300, 3, 1, 40, dtype)[first:last].clone()
        q, k, _ = buffer.split([3, 1, 1], dim=1)
        ops.rotary(q, k, *tables, positions[first:last], is_interleaved=is_interleaved, q_norm=norm, epsilon=1e-6)
        return buffer

    ops.set_num_threads(1)
    whole = turn(0, 300)
    for threads in (1, 2):
        ops.set_num_threads(threads)
        for first, last in [(0, 300), (0, 1), (7, 8), (3, 40), (299, 300), (5, 5)]:
            assert torch.equal(turn(first, last), whole[first:last])


@orders
def test_rotary_at_position_zero_changes_nothing(isa: str, is_interleaved: bool) -> None:
    q, k, _ = make_buffer(5, 2, 1, 16, torch.float32).split([2, 1, 1], dim=1)
    before = q.clone(), k.clone()
    ops.rotary(q, k, *make_tables(16), torch.zeros(5).int(), is_interleaved=is_interleaved)
    assert torch.equal(q, before[0])
    assert torch.equal(k, before[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.zeros(4, 16)}, r"q must be \[num_tokens, num_heads, head_dim\], got \[4, 16\]"),
        ({"q": torch.zeros(4, 2, 12)}, "head_dim must be a multiple of 8 from 8 to 256, got 12"),
        ({"k": torch.zeros(3, 1, 16)}, "k must have num_tokens = 4, got 3"),
        ({"k": torch.zeros(4, 1, 16).bfloat16()}, "k must be float32, got bfloat16"),
        ({"cos": torch.ones(5)}, r"cos must be \[num_positions, rotary_dim / 2\], got \[5\]"),
        ({"cos": torch.ones(5, 9)}, "cos must have 1 to head_dim / 2 = 8 columns, got 9"),
        ({"sin": torch.ones(5, 4)}, r"sin must have shape \[5, 8\], got \[5, 4\]"),
        ({"position_ids": torch.arange(2, 6).int()}, r"position_ids must be in \[0, 5\), got 5 at index 3"),
        ({"position_ids": torch.arange(-1, 3).int()}, r"position_ids must be in \[0, 5\), got -1 at index 0"),
        ({"q_norm": torch.ones(15)}, r"q_norm must have shape \[16\], got \[15\]"),
        ({"k_norm": torch.ones(16).bfloat16()}, "k_norm must be float32, got bfloat16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_rotary_refuses_wrong_arguments(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = dict(
        q=torch.zeros(4, 2, 16),
        k=torch.zeros(4, 1, 16),
        cos=torch.ones(5, 8),
        sin=torch.ones(5, 8),
        position_ids=torch.arange(4).int(),
    )
    with pytest.raises(ValueError, match=message):
        ops.rotary(**{**arguments, **changes})
