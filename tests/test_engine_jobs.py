"""Jobs handed in without waiting: fairness, priorities, deadlines, cancelling, refusal, and what fails alone."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import weakref
from concurrent.futures import CancelledError, wait
from typing import Any

import pytest
import torch

from assay.batch import Sequence
from assay.engine import Engine, Job, Ticket
from assay.errors import (
    BatchMemoryError,
    DeadlineExceededError,
    EngineDeadError,
    EngineDrainingError,
    NonFiniteError,
    OverloadedError,
    ValidationError,
)
from assay.inputs import cache_salts
from assay.rendering import Renderable
from assay.tokenize_options import TokenizeOptions
from engines import expected, hold, ids, job, make_engine, wait_until
from fakes import BROKEN_ID, POISON_ID, FakeModel, FakeTokenizer


def answers(ticket: Ticket) -> list[list[float]]:
    results = ticket.future.result(30)
    assert [result.index for result in results] == list(range(ticket.num_items))
    return [[] if result.data is None else result.data.tolist() for result in results]


def queued(engine: Engine, count: int) -> None:
    wait_until(lambda: engine.num_waiting >= count)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 300])
def test_a_started_job_gives_results_in_order(count: int) -> None:
    engine, _ = make_engine()
    with engine:
        prompts = ids(3, count)
        ticket = engine.start(job(prompts))
        assert answers(ticket) == [expected(prompt) for prompt in prompts]
        assert ticket.num_tokens == 8 * count
        times = ticket.times
        assert min(times.tokenize_s, times.queue_s, times.compute_s) >= 0
        assert count == 0 or times.compute_s > 0
        assert engine.stats().num_jobs == 0


def test_start_returns_before_the_text_is_tokenised() -> None:
    engine, _ = make_engine(tokenizer=FakeTokenizer(delay_s=0.3))
    with engine:
        began = time.monotonic()
        ticket = engine.start(job(["abc"] * 10))
        assert time.monotonic() - began < 0.25
        assert not ticket.future.done()
        assert len(answers(ticket)) == 10
        assert ticket.times.tokenize_s >= 0.3


@pytest.mark.parametrize(("gather_s", "first_batch"), [(60.0, 64), (0.0, 8)])
def test_a_job_that_is_alone_fills_its_first_batch(
    monkeypatch: pytest.MonkeyPatch, gather_s: float, first_batch: int
) -> None:
    """Chunks of 8, 16, 32, ... prompts come 20 ms apart; with no time to gather the model begins with the first."""
    monkeypatch.setattr("assay.engine.ticket.GATHER_S", gather_s)
    engine, model = make_engine(
        tokenizer=FakeTokenizer(delay_s=0.02), max_batch_size=64, max_batch_tokens=10_000, tokenizer_threads=1
    )
    with engine:
        assert len(answers(engine.start(job([f"abc {number}" for number in range(200)])))) == 200
    assert len(model.batches[0]) == first_batch


def test_a_job_beside_another_one_does_not_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.engine.ticket.GATHER_S", 60.0)
    engine, model = make_engine(
        tokenizer=FakeTokenizer(delay_s=0.02), max_batch_size=64, max_batch_tokens=10_000, tokenizer_threads=1
    )
    with engine:
        tickets = [engine.start(job([f"{name} {number}" for number in range(200)])) for name in "ab"]
        for ticket in tickets:
            answers(ticket)
    assert len(model.batches[0]) <= 16, "the first chunks were computed while the next ones were tokenised"


def test_a_long_job_does_not_keep_a_short_one_waiting() -> None:
    engine, model = make_engine()
    with engine:
        gate = hold(engine, model)
        long, short = engine.start(job(ids(3, 1000))), engine.start(job(ids(4, 5)))
        queued(engine, 56 + 5)
        gate.set()
        wait([long.future, short.future], 30)
    shared = [[prompt[0] for prompt in batch] for batch in model.batches]
    assert shared[1] == [3, 4] * 5 + [3] * 6, "every batch is shared item by item while both jobs wait"
    assert len(shared) == 1 + 63


def test_batches_are_shared_by_tokens_not_by_items() -> None:
    engine, model = make_engine(max_batch_size=100)
    with engine:
        gate = hold(engine, model)
        tickets = [engine.start(job(ids(3, 20, length=32))), engine.start(job(ids(4, 40, length=8)))]
        queued(engine, 60)
        gate.set()
        wait([ticket.future for ticket in tickets], 30)
    first = [prompt[0] for prompt in model.batches[1]]
    assert (first.count(3), first.count(4)) == (2, 8)


def test_priority_goes_first_then_arrival() -> None:
    engine, model = make_engine(scheduling_policy="priority", max_batch_size=5)
    with engine:
        gate = hold(engine, model)
        tickets = [engine.start(job(ids(3 + n, 5), priority=priority)) for n, priority in enumerate((0, 5, -1, 0))]
        queued(engine, 20)
        gate.set()
        wait([ticket.future for ticket in tickets], 30)
    assert [batch[0][0] for batch in model.batches[1:]] == [5, 3, 6, 4]


def test_priority_has_no_say_under_the_fair_policy() -> None:
    engine, model = make_engine(max_batch_size=10)
    with engine:
        gate = hold(engine, model)
        tickets = [engine.start(job(ids(3 + n, 5), priority=priority)) for n, priority in enumerate((5, -5))]
        queued(engine, 10)
        gate.set()
        wait([ticket.future for ticket in tickets], 30)
    assert [prompt[0] for prompt in model.batches[1]] == [3, 4] * 5


def test_a_deadline_ends_a_job_that_waits() -> None:
    engine, model = make_engine()
    with engine:
        gate = hold(engine, model)
        late = engine.start(job(ids(3, 50), deadline=time.monotonic() + 0.05))
        on_time = engine.start(job(ids(4, 5), deadline=time.monotonic() + 60))
        queued(engine, 55)
        time.sleep(0.06)
        gate.set()
        with pytest.raises(DeadlineExceededError, match="50 items not computed"):
            late.future.result(10)
        assert answers(on_time) == [expected(prompt) for prompt in ids(4, 5)]
        assert isinstance(late.future.exception(), TimeoutError)
    assert 3 not in {prompt[0] for batch in model.batches for prompt in batch}


def test_a_deadline_that_passes_during_anothers_inline_batch_is_kept() -> None:
    engine, model = make_engine()
    with engine:
        model.gate = threading.Event()
        inline = threading.Thread(target=lambda: list(engine.run(job(ids(4, 1)))))
        inline.start()
        assert model.started.wait(10)
        late = engine.start(job(ids(3, 20), deadline=time.monotonic() + 0.05))
        queued(engine, 20)
        time.sleep(0.06)
        model.gate.set()
        with pytest.raises(DeadlineExceededError):
            late.future.result(10)
        inline.join(10)
    assert model.batches == [ids(4, 1)]


def test_a_job_past_its_deadline_is_not_tokenised() -> None:
    tokenizer = FakeTokenizer()
    engine, _ = make_engine(tokenizer=tokenizer)
    with engine:
        ticket = engine.start(job(["abc"] * 10, deadline=time.monotonic() - 1))
        with pytest.raises(DeadlineExceededError):
            ticket.future.result(10)
        for count in (1, 10):
            with pytest.raises(DeadlineExceededError):
                list(engine.run(job(["abc"] * count, deadline=time.monotonic() - 1)))
    assert tokenizer.calls == []


@pytest.mark.parametrize("way", ["ticket", "future"])
def test_cancelling_drops_all_but_the_running_batch(way: str) -> None:
    engine, model = make_engine()
    with engine:
        gate = hold(engine, model)
        ticket = engine.start(job(ids(3, 5000)))
        queued(engine, 32)
        model.started.clear()
        gate.set()
        wait_until(lambda: len(model.batches) >= 2)
        (ticket if way == "ticket" else ticket.future).cancel()
        done = len(model.batches)
        assert engine.num_waiting == 0
        assert [result.data is not None for result in engine.run(job([[9]]))] == [True]
        assert len(model.batches) <= done + 2, "the batch that was running, and the new job"
        assert ticket.future.cancelled()
        wait_until(lambda: engine.stats().queued_tokens == 0)
        ticket.cancel()


def test_cancelling_an_asyncio_wait_drops_the_work() -> None:
    engine, model = make_engine()

    async def wait_a_little() -> None:
        ticket = engine.start(job(ids(3, 5000)))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(ticket.future), 0.05)

    with engine:
        gate = hold(engine, model)
        asyncio.run(wait_a_little())
        wait_until(lambda: engine.num_waiting == 0)
        gate.set()
        wait_until(lambda: engine.stats().num_jobs == 0)


def test_a_cancelled_job_is_an_error_for_who_reads_its_results() -> None:
    engine, model = make_engine()
    with engine:
        gate = hold(engine, model)
        ticket = engine.start(job(ids(3, 50)))
        threading.Timer(0.05, ticket.cancel).start()
        with pytest.raises(CancelledError):
            ticket.future.result(10)
        gate.set()


@pytest.fixture
def tickets(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Ticket]]:
    """Those that engines make from now on."""
    made: list[weakref.ref[Ticket]] = []

    def recorded(*args: Any) -> Ticket:
        ticket = Ticket(*args)
        made.append(weakref.ref(ticket))
        return ticket

    monkeypatch.setattr("assay.engine.core.Ticket", recorded)
    return made


@pytest.mark.parametrize("count", [1, 5, 300])
@pytest.mark.parametrize("way", ["start", "run", "cancel"])
def test_a_job_that_is_over_is_freed_without_a_garbage_collection(
    tickets: list[weakref.ref[Ticket]], way: str, count: int
) -> None:
    """A collection walks all that a program has, and the more of it the more garbage there is; and until one comes the
    results of a job that is in a cycle stay where they are."""
    engine, model = make_engine()
    with engine:
        gc.disable()
        try:
            if way == "run":
                assert len(list(engine.run(job(ids(3, count))))) == count
            else:
                gate = hold(engine, model) if way == "cancel" else None
                future = engine.start(job(ids(3, count))).future
                if gate is None:
                    assert len(future.result(30)) == count
                else:
                    future.cancel()
                    gate.set()
            wait_until(lambda: all(ticket() is None for ticket in tickets))
        finally:
            gc.enable()
    assert tickets


class NoRoom(FakeModel):
    """A model that has no memory for any batch."""

    def run(self, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        raise MemoryError("no room")


@pytest.mark.parametrize("way", ["start", "run"])
@pytest.mark.parametrize(
    ("model", "prompts", "error"),
    [
        (FakeModel, [[1] * 100], ValidationError),  # longer than the model takes
        (FakeModel, [*ids(3, 300), []], ValidationError),
        (NoRoom, ids(3, 1), BatchMemoryError),
        (NoRoom, ids(3, 20), BatchMemoryError),
    ],
)
def test_a_job_that_fails_is_freed_without_a_garbage_collection(
    tickets: list[weakref.ref[Ticket]],
    model: type[FakeModel],
    prompts: list[list[int]],
    error: type[Exception],
    way: str,
) -> None:
    """Its error has a traceback, which has frames, and those have had the ticket, which has the error."""
    engine, _ = make_engine(model())
    with engine:
        gc.disable()
        try:
            with pytest.raises(error):
                list(engine.run(job(prompts))) if way == "run" else engine.start(job(prompts)).future.result(30)
            wait_until(lambda: all(ticket() is None for ticket in tickets))
        finally:
            gc.enable()
    assert tickets


def test_above_the_limit_a_job_is_refused_with_a_time_to_wait() -> None:
    engine, model = make_engine(max_queued_tokens=400)
    with engine:
        gate = hold(engine, model)
        first = engine.start(job(ids(3, 1000)))
        second = engine.start(job(ids(4, 20)))
        with pytest.raises(OverloadedError, match="max_queued_tokens=400") as refused:
            engine.start(job(ids(5, 10)))
        assert refused.value.retry_after_s > 0
        third = engine.start(job(ids(6, 3)))
        gate.set()
        for ticket in (first, second, third):
            assert len(answers(ticket)) == ticket.num_items
        assert len(list(engine.run(job(ids(7, 500))))) == 500, "an idle engine takes any job"


def test_stats_follow_the_work() -> None:
    engine, model = make_engine()
    with engine:
        gate = hold(engine, model)
        ticket = engine.start(job(ids(3, 30)))
        queued(engine, 30)
        stats = engine.stats()
        assert (stats.queued_tokens, stats.num_jobs, stats.running_items) == (240, 1, 1)
        assert stats.queued_items == 29 or stats.queued_items == 30
        assert stats.oldest_age_s > 0 and stats.is_alive and stats.death is None
        gate.set()
        ticket.future.result(10)
        wait_until(lambda: engine.stats().running_items == 0)
        stats = engine.stats()
        assert (stats.queued_tokens, stats.queued_items, stats.num_jobs, stats.oldest_age_s) == (0, 0, 0, 0.0)
        assert (stats.items, stats.tokens, stats.batches) == (31, 241, 3)
        assert stats.drain_tokens_per_s > 0
        assert stats.batch_fill == pytest.approx(241 / (3 * 128), rel=0.1)


def test_draining_refuses_new_work_and_finishes_what_is_there() -> None:
    engine, model = make_engine()
    with engine:
        gate = hold(engine, model)
        ticket = engine.start(job(ids(3, 100)))
        assert not engine.drain(0.01)
        assert engine.stats().is_draining
        for start in (engine.start, lambda one: list(engine.run(one))):
            with pytest.raises(EngineDrainingError):
                start(job(ids(4, 5)))
        gate.set()
        assert engine.drain(10)
        assert len(answers(ticket)) == 100


def test_a_bad_prompt_fails_its_job_alone_and_names_the_first_one() -> None:
    engine, _ = make_engine()
    with engine:
        prompts = ids(3, 3000)
        prompts[700] = prompts[300] = [1, 5000]
        bad, good = engine.start(job(prompts)), engine.start(job(ids(4, 50)))
        with pytest.raises(ValidationError, match="out of vocabulary") as caught:
            bad.future.result(10)
        assert caught.value.__notes__ == ["in prompts[300]"]
        assert answers(good) == [expected(prompt) for prompt in ids(4, 50)]
        wait_until(lambda: engine.stats().queued_tokens == 0)


def test_an_input_that_breaks_the_model_fails_its_job_alone() -> None:
    engine, model = make_engine()
    with engine:
        gate = hold(engine, model)
        bad, good = engine.start(job([*ids(3, 4), [BROKEN_ID], *ids(3, 4)])), engine.start(job(ids(4, 9)))
        queued(engine, 18)
        gate.set()
        with pytest.raises(RuntimeError, match="broken on purpose"):
            bad.future.result(10)
        assert answers(good) == [expected(prompt) for prompt in ids(4, 9)]


def test_a_nan_is_the_error_of_one_prompt_of_a_started_job() -> None:
    engine, _ = make_engine()
    with engine:
        results = engine.start(job([*ids(3, 6), [POISON_ID], *ids(3, 6)])).future.result(10)
        assert [result.data is None for result in results] == [False] * 6 + [True] + [False] * 6
        assert isinstance(results[6].error, NonFiniteError)


def test_ids_that_no_tensor_holds_fail_alone() -> None:
    engine, model = make_engine()
    with engine:
        gate = hold(engine, model)
        good, bad = engine.submit(Sequence([3, 4]), use_activation=False), engine.submit(Sequence([2**40]))
        gate.set()
        with pytest.raises(RuntimeError, match="OverflowError"):
            bad.result(10)
        assert good.result(10).tolist() == expected([3, 4])
        assert engine.is_alive


class HungryModel(FakeModel):
    """Runs out of memory for batches above 64 tokens."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def run(self, batch, use_activation, dimensions=None):  # type: ignore[no-untyped-def]
        if batch.num_tokens > 64:
            self.batch_tokens.append(batch.num_tokens)
            raise self.error
        return super().run(batch, use_activation, dimensions)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
    ids=["python", "torch-cpu", "torch-cuda"],
)
def test_out_of_memory_fails_the_batch_and_the_engine_goes_on(error: Exception) -> None:
    engine, model = make_engine(HungryModel(error))
    with engine:
        gate = hold(engine, model)
        ticket = engine.start(job(ids(3, 16)))
        queued(engine, 16)
        gate.set()
        with pytest.raises(BatchMemoryError, match="out of memory in a batch of 128 tokens") as caught:
            ticket.future.result(10)
        assert caught.value.__cause__ is error
        assert isinstance(caught.value, MemoryError)
        assert model.batch_tokens.count(128) == 1, "it is not tried again one by one"
        assert answers(engine.start(job(ids(4, 5)))) == [expected(prompt) for prompt in ids(4, 5)]


class PanickingTokenizer(FakeTokenizer):
    def encode_batch(self, texts, **options):  # type: ignore[no-untyped-def]
        if "panic" in texts:
            raise BaseException("a panic of compiled code")
        return super().encode_batch(texts, **options)


def test_a_panic_of_the_tokenizer_fails_its_job_alone() -> None:
    engine, _ = make_engine(tokenizer=PanickingTokenizer())
    with engine:
        bad, good = engine.start(job(["panic"] * 9)), engine.start(job(["fine"] * 9))
        with pytest.raises(RuntimeError, match="a panic of compiled code"):
            bad.future.result(10)
        assert len(answers(good)) == 9
        assert engine.is_alive


class DyingModel(FakeModel):
    def run(self, *args: object, **kwargs: object) -> list[torch.Tensor]:
        raise SystemExit("the thread dies")


@pytest.mark.parametrize("count", [1, 20])
def test_a_dead_compute_thread_fails_every_job_and_shows(count: int) -> None:
    engine, _ = make_engine(DyingModel())
    with engine:
        tickets = []
        for kind in (3, 4):
            try:
                tickets.append(engine.start(job(ids(kind, count))))
            except EngineDeadError:
                assert tickets, "the first job met a living engine"
        for ticket in tickets:
            with pytest.raises(EngineDeadError, match="the thread dies"):
                ticket.future.result(10)
        stats = engine.stats()
        assert not stats.is_alive
        assert stats.death == "SystemExit('the thread dies')"
        assert stats.queued_tokens == 0
        with pytest.raises(EngineDeadError):
            engine.start(job(ids(5, 1)))


def test_closing_fails_jobs_wherever_they_are() -> None:
    engine, model = make_engine(tokenizer=FakeTokenizer(delay_s=0.05), tokenizer_threads=1)
    gate = hold(engine, model)
    tickets = [engine.start(job(["abc"] * 200)) for _ in range(6)]
    wait_until(lambda: engine.num_waiting > 0)
    closer = threading.Thread(target=engine.close)
    closer.start()
    wait_until(lambda: not engine.is_alive)
    gate.set()
    closer.join(10)
    for ticket in tickets:
        with pytest.raises(EngineDeadError, match="closed"):
            ticket.future.result(10)
    assert engine.stats().death is None


def test_equal_inputs_of_a_batch_are_computed_once() -> None:
    engine, model = make_engine()
    with engine:
        gate = hold(engine, model)
        same = [[3, 4, 5]] * 6 + [[3, 4, 6]]
        plain, active = engine.start(job(same)), engine.start(job(same, use_activation=True))
        queued(engine, 14)
        gate.set()
        assert answers(plain) == [expected(prompt) for prompt in same]
        assert answers(active)[0] == torch.sigmoid(torch.tensor(expected([3, 4, 5])) / 1e4).tolist()
        results = plain.future.result()
        results[0].data.zero_()  # type: ignore[union-attr]
        assert results[1].data.tolist() == expected([3, 4, 5]), "each result is the caller's own"  # type: ignore[union-attr]
    assert sorted(model.batches[1]) == [[3, 4, 5], [3, 4, 5], [3, 4, 6], [3, 4, 6]], "once per set of options"


def test_known_results_come_from_the_cache_and_never_cross_salts() -> None:
    engine, model = make_engine(result_cache_bytes=1_000_000)
    prompts = [[3, 4], [3, 5], "text", ("a", "b")]
    with engine:
        first = answers(engine.start(job(prompts, cache_salt="a")))
        computed = sum(model.batch_sizes)
        assert answers(engine.start(job(prompts, cache_salt="a"))) == first
        assert [result.data.tolist() for result in engine.run(job(prompts, cache_salt="a"))] == first  # type: ignore[union-attr]
        assert sum(model.batch_sizes) == computed
        for salt in ("b", None):
            assert answers(engine.start(job(prompts, cache_salt=salt))) == first
        assert sum(model.batch_sizes) == 3 * computed
        answers(engine.start(job([[3, 4]], use_activation=True, cache_salt="a")))
        assert sum(model.batch_sizes) == 3 * computed + 1, "other options, other result"
        assert answers(engine.start(job([*prompts, [9, 9]] * 3, cache_salt="b")))[5:9] == first
        stats = engine.stats()
        assert stats.cache_hits >= 8 and stats.cache_misses >= 12 and stats.cache_bytes > 0


def test_every_prompt_may_have_its_own_salt() -> None:
    engine, model = make_engine(result_cache_bytes=1_000_000)
    prompts = [{"prompt": "a", "cache_salt": "one"}, {"prompt": "b"}, "c"]
    salts = cache_salts(prompts)
    assert salts == ["one", None, None]
    with engine:
        answers(engine.start(job("abc", cache_salt=salts)))
        answers(engine.start(job("abc", cache_salt=salts)))
        assert sum(model.batch_sizes) == 3
        answers(engine.start(job("abc")))
        assert sum(model.batch_sizes) == 4, "only the salted prompt is computed again"
    assert cache_salts({"prompt": "a", "cache_salt": "one"}) == ["one"]
    for without in ("a", ["a", "b"], [1, 2, 3], [[1, 2], "a"], {"prompt": "a"}):
        assert cache_salts(without) is None


def test_a_nan_is_not_cached() -> None:
    engine, model = make_engine(result_cache_bytes=1_000_000)
    with engine:
        for _ in range(2):
            assert engine.start(job([[POISON_ID]])).future.result(10)[0].error is not None
    assert sum(model.batch_sizes) == 2


def test_nothing_is_cached_unless_asked_for() -> None:
    engine, model = make_engine()
    with engine:
        for _ in range(2):
            list(engine.run(job([[3, 4]])))
    assert sum(model.batch_sizes) == 2


@pytest.mark.parametrize(("prompt", "max_batch_size", "most"), [("abc", 16, 64), ("x" * 60, 1000, 33 + 128)])
def test_prompts_in_flight_are_bounded_for_a_started_job(prompt: str, max_batch_size: int, most: int) -> None:
    """By their number, or by their tokens: 16 x 128 of 62 each, and what was begun before that was known."""
    tokenizer = FakeTokenizer()
    engine, model = make_engine(tokenizer=tokenizer, max_batch_size=max_batch_size, tokenizer_threads=1)
    with engine:
        gate = hold(engine, model)
        ticket = engine.start(job([prompt] * 5000))
        wait_until(lambda: engine.num_waiting > 16)
        time.sleep(0.1)
        assert sum(tokenizer.calls) <= most
        gate.set()
        assert len(answers(ticket)) == 5000


def test_results_tell_what_was_truncated() -> None:
    engine, _ = make_engine()
    prompts: list[Renderable] = [[1, 2, 3, 4, 5], [1, 2], [1, 2, 3]]
    with engine:
        for options in (TokenizeOptions(64, truncate_to=3), TokenizeOptions(64, truncate_to=3, pad_to=10)):
            results = engine.start(Job(prompts, options, [False] * 3)).future.result(10)
            assert [result.is_truncated for result in results] == [True, False, False]
            assert [result.num_tokens_before_truncation for result in results] == [5, 2, 3]


def test_all_chunks_of_a_job_share_its_queries() -> None:
    tokenizer = FakeTokenizer()
    engine, _ = make_engine(tokenizer=tokenizer)
    with engine:
        for _ in range(2):
            engine.start(job([("query", str(n)) for n in range(100)])).future.result(10)
    shared = {id(first_texts) for first_texts in tokenizer.first_texts}
    assert len(tokenizer.first_texts) > 2 and len(shared) == 2 and None not in tokenizer.first_texts


def test_many_threads_start_run_cancel_and_expire_at_once() -> None:
    engine, _ = make_engine(FakeModel(delay_s=0.0005), result_cache_bytes=20_000, max_queued_tokens=20_000)
    problems: list[str] = []

    def call(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(25):
            prompts = ids(seed + 3, rng.choice((1, 3, 7, 60)), rng.randint(3, 20))
            deadline = time.monotonic() + rng.choice((0.001, 30))
            one = job(prompts, priority=rng.randint(-2, 2), deadline=deadline, cache_salt=rng.choice((None, "s")))
            try:
                if rng.random() < 0.3:
                    found = [result.data.tolist() for result in engine.run(one)]  # type: ignore[union-attr]
                else:
                    ticket = engine.start(one)
                    if rng.random() < 0.2:
                        time.sleep(rng.random() * 0.003)
                        ticket.cancel()
                    found = answers(ticket)
                if found != [expected(prompt) for prompt in prompts]:
                    problems.append(f"wrong results of {len(prompts)} prompts")
            except (CancelledError, DeadlineExceededError, OverloadedError):
                pass
            except BaseException as err:
                problems.append(repr(err))

    with engine:
        threads = [threading.Thread(target=call, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert problems == []
        wait_until(lambda: engine.stats().num_jobs == 0)
        stats = engine.stats()
        assert (stats.queued_tokens, stats.queued_items, engine.num_waiting) == (0, 0, 0)
        assert engine.is_alive
