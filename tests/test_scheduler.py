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


def drained(scheduler: Scheduler[str]) -> list[list[str]]:
    found = []
    while len(scheduler):
        found.append(scheduler.next_batch())
    return found


def test_lanes_take_turns_whatever_their_length() -> None:
    scheduler: Scheduler[str] = Scheduler(6, 100, 0)
    long, short = scheduler.new_lane(), scheduler.new_lane()
    for _ in range(9):
        scheduler.add("long", 1, long)
    for _ in range(3):
        scheduler.add("short", 1, short)
    assert drained(scheduler) == [["long", "short"] * 3, ["long"] * 6]


def test_a_lane_of_long_items_gets_as_many_tokens_not_as_many_items() -> None:
    scheduler: Scheduler[str] = Scheduler(16, 100, 4)
    long, short = scheduler.new_lane(), scheduler.new_lane()
    for _ in range(4):
        scheduler.add("long", 4, long)
    for _ in range(16):
        scheduler.add("short", 1, short)
    assert [(batch.count("long"), batch.count("short")) for batch in drained(scheduler)] == [(2, 8), (2, 8)]


def test_a_lane_that_comes_later_has_no_claim_on_the_past() -> None:
    scheduler: Scheduler[str] = Scheduler(4, 100, 0)
    first, second = scheduler.new_lane(), scheduler.new_lane()
    for _ in range(20):
        scheduler.add("first", 1, first)
    for _ in range(3):
        scheduler.next_batch()
    for _ in range(20):
        scheduler.add("second", 1, second)
    assert [scheduler.next_batch().count("second") for _ in range(2)] == [2, 2]


def test_a_lane_that_pauses_has_no_claim_either() -> None:
    scheduler: Scheduler[str] = Scheduler(4, 100, 0)
    steady, pausing = scheduler.new_lane(), scheduler.new_lane()
    scheduler.add("pausing", 1, pausing)
    for _ in range(40):
        scheduler.add("steady", 1, steady)
    for _ in range(5):
        scheduler.next_batch()
    for _ in range(10):
        scheduler.add("pausing", 1, pausing)
    assert [scheduler.next_batch().count("pausing") for _ in range(2)] == [2, 2]


def test_priority_serves_the_lowest_number_then_the_oldest_lane() -> None:
    scheduler: Scheduler[str] = Scheduler(2, 100, 0, policy="priority")
    lanes = [scheduler.new_lane(priority) for priority in (1, 0, 1, -3)]
    for name, lane in zip("abcd", lanes, strict=True):
        scheduler.add(name, 1, lane)
        scheduler.add(name, 1, lane)
    assert drained(scheduler) == [["d", "d"], ["b", "b"], ["a", "a"], ["c", "c"]]


def test_a_cleared_lane_leaves_the_others_alone() -> None:
    scheduler: Scheduler[str] = Scheduler(8, 8, 2)
    gone, stays = scheduler.new_lane(), scheduler.new_lane()
    scheduler.add("gone", 3, gone)
    scheduler.add("stays", 4, stays)
    scheduler.add("gone too", 3, gone)
    assert scheduler.clear(gone) == ["gone", "gone too"]
    assert (len(scheduler), scheduler.num_tokens) == (1, 4)
    scheduler.add("back", 2, gone)
    assert sorted(scheduler.next_batch()) == ["back", "stays"]
    assert scheduler.clear(gone) == [] and scheduler.next_batch() == []


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 40), st.booleans()), max_size=80),
    st.integers(1, 64),
    st.integers(1, 8),
    st.integers(0, 5),
    st.sampled_from(["fcfs", "priority"]),
)
def test_every_item_of_every_lane_runs_once_in_budget_and_no_lane_starves(
    arrivals: list[tuple[int, int, bool]], max_tokens: int, max_size: int, lookahead: int, policy: str
) -> None:
    scheduler: Scheduler[tuple[int, int, int]] = Scheduler(max_tokens, max_size, lookahead, policy)
    lanes = [scheduler.new_lane(priority) for priority in (0, 1, 0, -1, 0)]
    waiting: list[tuple[int, int, int]] = []
    ran: list[tuple[int, int, int]] = []

    def step() -> None:
        batch = scheduler.next_batch()
        assert bool(batch) == bool(waiting)
        assert len(batch) <= max_size
        assert len(batch) == 1 or sum(length for _, _, length in batch) <= max_tokens
        if batch:
            lane = batch[0][0]
            assert batch[0] == next(item for item in waiting if item[0] == lane), "the head of its lane"
            if policy == "priority":
                order = [(priority, index) for index, priority in enumerate((0, 1, 0, -1, 0))]
                assert lane == min((item[0] for item in waiting), key=order.__getitem__)
        for item in batch:
            waiting.remove(item)
            ran.append(item)

    for index, (lane, length, runs) in enumerate(arrivals):
        scheduler.add((lane, index, length), length, lanes[lane])
        waiting.append((lane, index, length))
        if runs:
            step()
    for _ in range(len(waiting)):
        step()
    assert sorted(index for _, index, _ in ran) == list(range(len(arrivals)))
    assert (len(scheduler), scheduler.num_tokens) == (0, 0)


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
