"""`embed` against float64: every combination of tables, both table dtypes, odd sizes; bitwise batch invariance."""

from __future__ import annotations

import itertools

import pytest
import torch

import reference
from assay import ops

ROWS = {"word": 97, "position": 600, "token_type": 2, "task_type": 3}


class Case:
    """Random tables and ids."""

    def __init__(self, num_tokens: int, hidden_size: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.hidden_size = hidden_size
        self.tables = {k: torch.randn(n, hidden_size, generator=generator).to(dtype) for k, n in ROWS.items()}
        self.ids = {k: torch.randint(n, (num_tokens,), generator=generator, dtype=torch.int32) for k, n in ROWS.items()}
        self.norm_weight, self.norm_bias = (torch.randn(hidden_size, generator=generator) for _ in range(2))

    def run(self, tables: set[str], *, norm: bool = True, types: bool = True, part: object = None) -> torch.Tensor:
        """ops.embed with the tables named; `part` indexes the tokens."""
        keep = slice(None) if part is None else part
        ids = {k: v[keep].contiguous() for k, v in self.ids.items()}  # type: ignore[index]
        table = {k: self.tables[k] if k in tables or k == "word" else None for k in ROWS}
        return ops.embed(
            ids["word"],
            ids["position"],
            ids["token_type"] if types else None,
            table["word"],  # type: ignore[arg-type]
            table["position"],
            table["token_type"],
            table["task_type"],
            self.norm_weight if norm else None,
            self.norm_bias if norm else None,
            1e-12,
            out=reference.poisoned(ids["word"].shape[0], self.hidden_size),
        )

    def plain(self, tables: set[str], dtype: torch.dtype, *, norm: bool = True, types: bool = True) -> torch.Tensor:
        ids = {**self.ids, "task_type": torch.zeros_like(self.ids["word"])}
        if not types:
            ids["token_type"] = torch.zeros_like(self.ids["word"])
        names = [k for k in ("word", "token_type", "position", "task_type") if k in tables or k == "word"]
        total = reference.embed([ids[k] for k in names], [self.tables[k].to(dtype) for k in names])
        if not norm:
            return total
        return reference.layer_norm(total, self.norm_weight.to(dtype), self.norm_bias.to(dtype), 1e-12)


ALL = {"word", "position", "token_type", "task_type"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_tokens", [0, 1, 15, 16, 17, 333])
def test_embed_matches_float64(isa: str, num_tokens: int, dtype: torch.dtype) -> None:
    case = Case(num_tokens, 384, dtype)
    exact, base = case.plain(ALL, torch.float64), case.plain(ALL, torch.float32)
    assert reference.max_err(case.run(ALL), exact) <= reference.budget(base, exact)


@pytest.mark.parametrize("hidden_size", [1, 7, 16, 33, 100, 127])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embed_takes_any_hidden_size(isa: str, hidden_size: int, dtype: torch.dtype) -> None:
    case = Case(6, hidden_size, dtype)
    exact, base = case.plain(ALL, torch.float64), case.plain(ALL, torch.float32)
    assert reference.max_err(case.run(ALL), exact) <= reference.budget(base, exact)


@pytest.mark.parametrize("norm", [True, False])
def test_embed_tables_are_optional(isa: str, norm: bool) -> None:
    case = Case(40, 72)
    for count in range(4):
        for names in itertools.combinations(sorted(ALL - {"word"}), count):
            for types in (True, False):
                out = case.run(set(names), norm=norm, types=types)
                exact = case.plain(set(names), torch.float64, norm=norm, types=types)
                base = case.plain(set(names), torch.float32, norm=norm, types=types)
                assert reference.max_err(out, exact) <= reference.budget(base, exact)
                if not norm:
                    assert torch.equal(out, base)  # sums in transformers' order are the same sums


def test_embed_is_batch_invariant(isa: str, restore_threads: None) -> None:
    case = Case(900, 72)
    ops.set_num_threads(1)
    whole = case.run(ALL)
    order = torch.randperm(900, generator=torch.Generator().manual_seed(1))
    for threads in (1, 2, 3):
        ops.set_num_threads(threads)
        assert torch.equal(case.run(ALL), whole)
        assert torch.equal(case.run(ALL, part=order), whole[order])
        for part in (slice(0, 1), slice(5, 40), slice(899, 900)):
            assert torch.equal(case.run(ALL, part=part), whole[part])


@pytest.mark.parametrize(("table", "argument"), [("word", "input_ids"), ("position", "position_ids")])
def test_embed_refuses_ids_outside_the_table(table: str, argument: str) -> None:
    for wrong in (-1, ROWS[table], 2**31 - 1, -(2**31)):
        case = Case(12, 32)
        case.ids[table][7] = wrong
        with pytest.raises(ValueError, match=rf"{argument} must be in \[0, {ROWS[table]}\), got {wrong} at index 7"):
            case.run(ALL)


def test_embed_refuses_wrong_arguments() -> None:
    case = Case(12, 32)
    case.ids["token_type"][3] = 2
    with pytest.raises(ValueError, match=r"token_type_ids must be in \[0, 2\), got 2 at index 3"):
        case.run(ALL)
    case = Case(12, 32)
    case.ids["word"] = case.ids["word"].long()
    with pytest.raises(ValueError, match=r"input_ids must be .*, got torch.int64"):
        case.run(ALL)
    case = Case(12, 32)
    case.ids["position"] = case.ids["position"][:11]
    with pytest.raises(ValueError, match=r"position_ids must have shape \[12\], got \[11\]"):
        case.run(ALL)
    case = Case(12, 32)
    case.tables["position"] = case.tables["position"].bfloat16()
    with pytest.raises(ValueError, match="position_embeddings must be float32, got bfloat16"):
        case.run(ALL)
    case = Case(12, 32)
    case.tables["token_type"] = case.tables["token_type"][:, :31].contiguous()
    with pytest.raises(ValueError, match=r"token_type_embeddings must have shape \[\*, 32\], got \[2, 31\]"):
        case.run(ALL)
    case = Case(12, 32)
    case.norm_bias = case.norm_bias[:5]
    with pytest.raises(ValueError, match=r"norm_bias must have shape \[32\], got \[5\]"):
        case.run(ALL)
