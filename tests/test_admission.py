"""What is let in, and what a refused caller is told; totals and rates behind it."""

from __future__ import annotations

import math
import pickle
import random
import threading
import time

import pytest

from assay.admission import Admission, Admitted, tokens_until_room
from assay.errors import DeadlineExceededError, EngineDrainingError, OverloadedError
from assay.throughput import Throughput

BATCH = 128


def admission(limit: int | None, tokens_per_s: float = 0.0) -> Admission:
    throughput = Throughput(BATCH)
    if tokens_per_s:
        throughput.add(round(tokens_per_s * 0.5), 10, 0.5)
    return Admission(limit, throughput)


def enter(gate: Admission, num_tokens: float, deadline: float | None = None) -> tuple[Admitted, list[Exception]]:
    failures: list[Exception] = []
    job = Admitted(num_tokens, 10, deadline)
    gate.enter(job, failures.append)
    return job, failures


def test_an_idle_engine_takes_any_job_and_a_long_one_counts_for_half() -> None:
    gate = admission(1000)
    enter(gate, 1_000_000)
    enter(gate, 500)
    with pytest.raises(OverloadedError):
        enter(gate, 1)
    assert gate.num_tokens == 1_000_500


def test_a_refused_caller_is_told_how_long_the_excess_takes() -> None:
    gate = admission(1000, tokens_per_s=200)
    enter(gate, 500)
    enter(gate, 400)
    with pytest.raises(OverloadedError, match="900 tokens are waiting") as refused:
        enter(gate, 300)
    assert refused.value.retry_after_s == pytest.approx((900 + 300 - 1000 + BATCH) / 200)
    assert pickle.loads(pickle.dumps(refused.value)).retry_after_s == refused.value.retry_after_s


@pytest.mark.parametrize(
    ("remaining", "excess", "expected"),
    [
        ([500, 400], 200, 200),  # both count in full: what is too much must be computed, by whomever
        ([1_000_000, 500], 1, 2),  # a short job makes room at once; half of every batch is the long one's
        ([100_000, 100_000], 200, 2 * 99_500 + 200),  # long ones make room only at their ends
        ([100_000, 50_000], 100, 2 * 49_500 + 2 * 100),
        ([100, 300], 350, 400 - 50),
    ],
)
def test_room_comes_when_the_jobs_that_count_have_come_down(
    remaining: list[float], excess: float, expected: float
) -> None:
    assert tokens_until_room(remaining, 500, excess) == pytest.approx(expected)


def test_the_estimate_is_what_sharing_step_by_step_comes_to() -> None:
    rng = random.Random(5)
    for _ in range(200):
        jobs = [rng.uniform(1, 3000) for _ in range(rng.randint(1, 8))]
        counted = sum(min(tokens, 500) for tokens in jobs)
        excess = rng.uniform(0, counted)
        estimate = tokens_until_room(jobs, 500, excess)
        step, computed, left = 0.5, 0.0, list(jobs)
        while sum(min(tokens, 500) for tokens in left) > counted - excess:
            computed += sum(min(step, tokens) for tokens in left)
            left = [max(0.0, tokens - step) for tokens in left]
        assert computed - len(jobs) * step <= estimate <= computed + 1e-6


def test_nobody_waits_longer_than_all_that_is_there_takes() -> None:
    gate = admission(100, tokens_per_s=10)
    enter(gate, 50)
    enter(gate, 50)
    with pytest.raises(OverloadedError) as refused:
        enter(gate, 20)
    assert refused.value.retry_after_s == pytest.approx(100 / 10)  # less than a whole batch of 128


def test_the_time_to_wait_is_never_zero_and_has_a_default() -> None:
    for rate, expected in ((1e9, 0.05), (0.0, 1.0)):
        gate = admission(10, rate)
        enter(gate, 10)
        enter(gate, 5)
        with pytest.raises(OverloadedError) as refused:
            enter(gate, 5)
        assert refused.value.retry_after_s == expected


def test_progress_makes_room() -> None:
    gate = admission(1000)
    job, _ = enter(gate, 500)
    enter(gate, 450)
    with pytest.raises(OverloadedError):
        enter(gate, 100)
    gate.progress(job, -300.0, -6)
    enter(gate, 100)
    assert (gate.num_tokens, gate.num_items, gate.num_jobs) == (750, 24, 3)


def test_leaving_takes_everything_of_a_job_away_once() -> None:
    gate = admission(None)
    jobs = [enter(gate, 0.1 * n)[0] for n in range(50)]
    for job in jobs:
        gate.progress(job, 1 / 3)
    for job in jobs * 2:
        gate.leave(job)
        gate.progress(job, 5.0)
    assert (gate.num_tokens, gate.num_items, gate.num_jobs) == (0, 0, 0)
    assert gate.oldest_age_s() == 0.0


def test_only_overdue_jobs_expire() -> None:
    gate = admission(None)
    now = time.monotonic()
    (_, late_failures), (early, early_failures), (_, free_failures) = (
        enter(gate, 1, deadline) for deadline in (now + 60, now - 1, None)
    )
    gate.expire_overdue()
    assert [type(failure) for failure in early_failures] == [DeadlineExceededError]
    assert late_failures == free_failures == []
    gate.leave(early)
    gate.expire_overdue()
    assert len(early_failures) == 1


def test_waiting_until_idle_ends_with_the_last_job() -> None:
    gate = admission(None)
    job, _ = enter(gate, 1)
    gate.refuse_all()
    with pytest.raises(EngineDrainingError):
        enter(gate, 1)
    assert not gate.wait_until_idle(0.01)
    threading.Timer(0.05, gate.leave, [job]).start()
    assert gate.wait_until_idle(10)


def test_rates_are_of_computing_time_and_old_batches_fade() -> None:
    throughput = Throughput(100)
    assert (throughput.tokens_per_s, throughput.batch_fill) == (0.0, 0.0)
    for _ in range(10):
        throughput.add(50, 5, 0.1)
    assert throughput.tokens_per_s == pytest.approx(500)
    assert throughput.batch_fill == pytest.approx(0.5)
    for _ in range(100):
        throughput.add(100, 5, 0.5)
    assert throughput.tokens_per_s == pytest.approx(200, rel=0.01)
    assert throughput.batch_fill == pytest.approx(1.0, rel=0.01)
    throughput.add(100, 1, 60.0)
    assert math.isclose(throughput.tokens_per_s, 100 / 60.0), "one batch longer than the memory is all that counts"
    assert (throughput.num_batches, throughput.num_items, throughput.num_tokens) == (111, 551, 10_600)
