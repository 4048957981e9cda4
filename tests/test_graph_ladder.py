"""The ladder of batch sizes that CUDA graphs are captured for, and the bound on what they cost."""

from __future__ import annotations

import pytest

from assay.models.graph_ladder import MAX_TOKENS, GraphBudget, Rung, find_rung, make_ladder


@pytest.mark.parametrize(
    ("max_tokens", "max_seqs"), [(1, 1), (16, 4), (17, 256), (512, 1024), (4096, 256), (100_000, 1024)]
)
def test_ladder_rises_to_the_largest_batch(max_tokens: int, max_seqs: int) -> None:
    ladder = make_ladder(max_tokens, max_seqs)
    tokens = [rung.num_tokens for rung in ladder]
    assert tokens == sorted(set(tokens))
    assert tokens[-1] == min(max_tokens, MAX_TOKENS)
    assert all(rung.num_seqs == min(rung.num_tokens, max_seqs) for rung in ladder)


def test_padding_is_at_most_an_eighth_and_rungs_are_few() -> None:
    ladder = make_ladder(16384, 256)
    assert len(ladder) < 64
    for num_tokens in range(1, MAX_TOKENS + 1):
        rung = find_rung(ladder, num_tokens, 1)
        assert rung is not None and rung.num_tokens >= num_tokens
        assert rung.num_tokens - num_tokens < max(16, num_tokens / 8 + 1)


def test_a_rung_has_room_for_the_sequences_too() -> None:
    ladder = (Rung(16, 4), Rung(32, 4), Rung(64, 8))
    assert find_rung(ladder, 10, 4) == Rung(16, 4)
    assert find_rung(ladder, 10, 5) == Rung(64, 8)
    assert find_rung(ladder, 64, 8) == Rung(64, 8)
    assert find_rung(ladder, 65, 1) is None
    assert find_rung(ladder, 9, 9) is None
    assert find_rung((), 1, 1) is None


def test_budget_leaves_room_for_one_as_large_as_the_largest() -> None:
    budget = GraphBudget(100)
    assert budget.has_room
    for used, has_room in ((30, True), (60, True), (70, True), (71, False), (90, False)):
        budget.note(used)
        assert budget.has_room is has_room, used
    assert budget.used_bytes == 90


def test_no_budget_captures_nothing() -> None:
    assert not GraphBudget(-1).has_room
