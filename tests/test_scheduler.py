from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from assay.scheduler import Scheduler


def batches(lengths: list[int], max_tokens: int, max_size: int, lookahead: int) -> list[list[int]]:
    scheduler: Scheduler[int] = Scheduler(max_tokens, max_size, lookahead)
    for index, length in enumerate(lengths):
        scheduler.add(index, length)
    found = []
    while len(scheduler):
        found.append(scheduler.next_batch())
    assert scheduler.num_tokens == 0
    assert scheduler.next_batch() == []
    return found


def test_fills_up_to_the_token_budget_in_order() -> None:
    assert batches([4, 4, 4, 4], 8, 100, 0) == [[0, 1], [2, 3]]


def test_fills_up_to_the_batch_size() -> None:
    assert batches([1] * 5, 100, 2, 10) == [[0, 1], [2, 3], [4]]


def test_a_sequence_over_the_budget_goes_alone() -> None:
    assert batches([20, 1, 20], 8, 100, 4) == [[0], [1], [2]]


def test_lookahead_fills_the_gap_behind_one_that_does_not_fit() -> None:
    assert batches([5, 6, 3, 2], 8, 100, 4) == [[0, 2], [1, 3]]


def test_no_lookahead_stops_at_the_first_that_does_not_fit() -> None:
    assert batches([5, 6, 3, 2], 8, 100, 0) == [[0], [1], [2, 3]]


def test_drain_returns_everything_in_order() -> None:
    scheduler: Scheduler[str] = Scheduler(8, 8, 2)
    scheduler.add("a", 3)
    scheduler.add("b", 4)
    assert scheduler.drain() == ["a", "b"]
    assert len(scheduler) == 0 and scheduler.num_tokens == 0


@given(
    st.lists(st.integers(1, 40), max_size=60),
    st.integers(1, 64),
    st.integers(1, 8),
    st.integers(0, 5),
)
def test_every_item_runs_once_within_budget_and_the_oldest_runs_first(
    lengths: list[int], max_tokens: int, max_size: int, lookahead: int
) -> None:
    found = batches(lengths, max_tokens, max_size, lookahead)
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    waiting = list(range(len(lengths)))
    for batch in found:
        assert batch[0] == waiting[0]
        assert batch == sorted(batch)
        assert len(batch) <= max_size
        assert len(batch) == 1 or sum(lengths[index] for index in batch) <= max_tokens
        waiting = [index for index in waiting if index not in batch]
