from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import closing
from typing import Any

import pytest
import torch

from assay.batch import Sequence
from assay.engine import Engine
from assay.errors import EngineDeadError, NonFiniteError, ValidationError
from engines import expected, job, make_engine
from fakes import BROKEN_ID, POISON_ID, FakeModel, FakeTokenizer


@pytest.fixture
def engine() -> Iterator[Engine]:
    built, _ = make_engine()
    with built:
        yield built


def values(engine: Engine, prompts: Iterable[object]) -> list[list[float]]:
    results = list(engine.run(job(prompts)))
    assert [result.index for result in results] == list(range(len(results)))
    return [[] if result.data is None else result.data.tolist() for result in results]


@pytest.mark.parametrize("count", [1, 3, 4, 5, 100, 1000])
def test_results_come_in_input_order(engine: Engine, count: int) -> None:
    prompts: list[object] = [[index % 500 + 1] * (index % 50 + 1) for index in range(count)]
    assert values(engine, prompts) == [expected(prompt) for prompt in prompts]  # type: ignore[arg-type]


def test_texts_and_ids_mix(engine: Engine) -> None:
    assert values(engine, ["a", [1, 2 + ord("a"), 2], ""]) == [
        expected([1, 99, 2]),
        expected([1, 99, 2]),
        expected([1, 2]),
    ]


def test_batches_respect_the_budgets() -> None:
    engine, model = make_engine()
    with engine:
        values(engine, [[index + 1] * 30 for index in range(50)] + [[index + 1] for index in range(100)])
    assert max(model.batch_sizes) <= 16
    assert max(model.batch_tokens) <= 128
    assert sum(model.batch_sizes) == 150


def test_a_sequence_longer_than_the_budget_runs_alone_and_others_keep_to_it() -> None:
    engine, model = make_engine(max_batch_tokens=16)
    with engine:
        assert values(engine, [[1] * 64]) == [expected([1] * 64)]
        values(engine, [[index + 1] * 8 for index in range(40)] + [[index + 1] * 20 for index in range(5)])
    assert model.batch_tokens.count(64) == 1 and model.batch_tokens.count(20) == 5
    assert {size for size, tokens in zip(model.batch_sizes, model.batch_tokens, strict=True) if tokens > 16} == {1}
    assert max(tokens for tokens in model.batch_tokens if tokens not in (64, 20)) <= 16


def test_one_compute_thread_serves_many_callers(engine: Engine) -> None:
    problems: list[BaseException] = []

    def call(seed: int) -> None:
        try:
            for repeat in range(5):
                prompts: list[object] = [[seed + 1, index + 1] for index in range(40 + repeat)]
                assert values(engine, prompts) == [[float(seed + index + 2), 2.0] for index in range(40 + repeat)]
        except BaseException as err:
            problems.append(err)

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []


def test_bulk_work_computes_on_one_thread_that_is_not_the_caller() -> None:
    engine, model = make_engine()
    with engine:
        values(engine, ["x"] * 200)
    assert len(model.threads) == 1
    assert threading.get_ident() not in model.threads


def test_a_few_prompts_are_computed_by_the_caller_where_the_model_is_free() -> None:
    engine, model = make_engine(max_batch_size=2)
    with engine:
        assert values(engine, [[1], [2], [3, 4]]) == [expected([1]), expected([2]), expected([3, 4])]
    assert model.threads == {threading.get_ident()}
    assert model.batch_sizes == [2, 1]


def test_a_few_prompts_queue_where_the_model_is_busy() -> None:
    engine, model = make_engine()
    model.gate = threading.Event()
    with engine:
        first = engine.submit(Sequence([1]))
        assert model.started.wait(30)
        timer = threading.Timer(0.2, model.gate.set)
        timer.start()
        assert values(engine, [[5]]) == [expected([5])]
        assert first.result(30) is not None
    assert threading.get_ident() not in model.threads


def test_the_model_runs_on_one_thread_at_a_time() -> None:
    running, most = 0, 0
    guard = threading.Lock()

    class CountingModel(FakeModel):
        def run(self, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
            nonlocal running, most
            with guard:
                running += 1
                most = max(most, running)
            time.sleep(0.001)
            try:
                return super().run(*args, **kwargs)
            finally:
                with guard:
                    running -= 1

    engine, _ = make_engine(CountingModel())
    with engine:
        threads = [threading.Thread(target=lambda n=n: values(engine, [[1]] * n)) for n in (1, 2, 50, 1, 3) * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert most == 1


def test_tokenisation_overlaps_compute() -> None:
    model, tokenizer = FakeModel(), FakeTokenizer(delay_s=0.01)
    engine, _ = make_engine(model, tokenizer, max_batch_size=1024, max_batch_tokens=100_000)
    with engine, closing(engine.run(job(["abc"] * 600))) as results:
        next(results)
        assert sum(tokenizer.calls) < 600, "the first result came before the last prompt was tokenised"


def test_prompts_in_flight_are_bounded() -> None:
    tokenizer, model = FakeTokenizer(), FakeModel()
    model.gate = threading.Event()
    engine, _ = make_engine(model, tokenizer, max_batch_size=16)
    with engine:
        results = engine.run(job(["abc"] * 5000))
        consumer = threading.Thread(target=lambda: next(results))
        consumer.start()
        assert model.started.wait(10)
        time.sleep(0.2)
        assert sum(tokenizer.calls) <= 4 * 16
        model.gate.set()
        consumer.join(10)
        assert len(list(results)) == 4999


def test_a_bad_prompt_raises_and_aborts_the_rest() -> None:
    engine, model = make_engine()
    with engine:
        prompts: list[object] = [[1]] * 5000
        prompts[300] = [1, 5000]
        with pytest.raises(ValidationError, match="Token id 5000 is out of vocabulary") as caught:
            list(engine.run(job(prompts)))
        assert caught.value.__notes__ == ["in prompts[300]"]
        assert sum(model.batch_sizes) < 1000
        assert values(engine, [[7]]) == [[7.0, 1.0]]
        assert engine.num_waiting == 0


def test_leaving_the_iteration_aborts_the_rest() -> None:
    engine, model = make_engine(FakeModel(delay_s=0.002))
    with engine:
        with closing(engine.run(job([index % 600 + 1, index // 600 + 1] for index in range(5000)))) as results:
            next(results)
        assert engine.num_waiting == 0
        deadline = time.monotonic() + 5
        while engine.stats().running_items and time.monotonic() < deadline:
            time.sleep(0.01)
        done = sum(model.batch_sizes)
        assert done < 1000
        time.sleep(0.1)
        assert sum(model.batch_sizes) == done, "nothing runs after the abort"


def test_nan_is_the_error_of_one_prompt(engine: Engine) -> None:
    results = list(engine.run(job([[1], [POISON_ID], [3]])))
    assert results[1].data is None
    assert isinstance(results[1].error, NonFiniteError)
    assert [result.error for result in results[::2]] == [None, None]
    assert values(engine, [[1]] * 30 + [[POISON_ID]] + [[1]] * 30) == [[1.0, 1.0]] * 30 + [[]] + [[1.0, 1.0]] * 30


def test_an_input_that_breaks_the_model_fails_alone(engine: Engine) -> None:
    good = [engine.submit(Sequence([index + 1]), use_activation=False) for index in range(20)]
    bad = engine.submit(Sequence([BROKEN_ID]))
    more = [engine.submit(Sequence([index + 1]), use_activation=False) for index in range(20)]
    with pytest.raises(RuntimeError, match="broken on purpose"):
        bad.result(10)
    for futures in (good, more):
        assert [future.result(10).tolist() for future in futures] == [[index + 1.0, 1.0] for index in range(20)]


def test_activation_is_chosen_per_row(engine: Engine) -> None:
    plain, active = (engine.submit(Sequence([5, 6]), use_activation=flag) for flag in (False, True))
    assert torch.equal(active.result(10), torch.sigmoid(plain.result(10) / 1e4))


def test_a_waiting_request_can_be_cancelled() -> None:
    engine, model = make_engine(max_batch_size=1)
    with engine:
        model.gate = threading.Event()
        first = engine.submit(Sequence([1]))
        assert model.started.wait(10)
        second, third = engine.submit(Sequence([2])), engine.submit(Sequence([3]))
        assert second.cancel()
        assert not first.cancel(), "it is running"
        model.gate.set()
        first.result(10)
        third.result(10)
        with pytest.raises(CancelledError):
            second.result(10)
    assert model.batch_sizes == [1, 1]


def test_close_fails_what_waits_and_refuses_more() -> None:
    engine, model = make_engine(max_batch_size=1)
    model.gate = threading.Event()
    first = engine.submit(Sequence([1]))
    assert model.started.wait(10)
    waiting: Future[torch.Tensor] = engine.submit(Sequence([2]))
    closer = threading.Thread(target=engine.close)
    closer.start()
    with pytest.raises(EngineDeadError):
        waiting.result(10)
    model.gate.set()
    closer.join(10)
    assert first.result(10) is not None, "the running batch finishes"
    assert not engine.is_alive
    for prompts in ([[1]], [[1]] * 50):
        with pytest.raises(EngineDeadError, match="closed"):
            list(engine.run(job(prompts)))
    with pytest.raises(EngineDeadError, match="closed"):
        engine.submit(Sequence([1]))
    engine.close()


def test_close_reaches_a_caller_in_another_thread() -> None:
    engine, model = make_engine(FakeModel(delay_s=0.01))
    caught: list[BaseException] = []

    def call() -> None:
        try:
            list(engine.run(job([[1]] * 20_000)))
        except BaseException as err:
            caught.append(err)

    caller = threading.Thread(target=call)
    caller.start()
    assert model.started.wait(10)
    engine.close()
    caller.join(10)
    assert not caller.is_alive()
    assert [type(err) for err in caught] == [EngineDeadError]


class DyingModel(FakeModel):
    def run(self, *args: object, **kwargs: object) -> list[torch.Tensor]:
        raise SystemExit("the thread dies")


def test_a_dead_compute_thread_is_reported_not_waited_for() -> None:
    engine, _ = make_engine(DyingModel())
    with engine:
        future = engine.submit(Sequence([1]))
        with pytest.raises(EngineDeadError, match="the thread dies"):
            future.result(10)
        with pytest.raises(EngineDeadError, match="the thread dies"):
            engine.submit(Sequence([1]))
        assert not engine.is_alive


def test_a_forgotten_engine_stops_its_threads() -> None:
    before = set(threading.enumerate())
    engine, model = make_engine()
    values(engine, ["x"] * 100)
    started = set(threading.enumerate()) - before
    assert started
    del engine, model
    gc.collect()
    for thread in started:
        thread.join(5)
    assert not any(thread.is_alive() for thread in started)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_refused_instead_of_hanging(engine: Engine) -> None:
    values(engine, [[1]])
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            engine.submit(Sequence([1]))
            os.write(writer, b"no error")
        except EngineDeadError as err:
            os.write(writer, str(err).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert b"after the fork" in os.read(reader, 1000)
    os.close(reader)
    os.close(writer)
    assert values(engine, [[1]]) == [[1.0, 1.0]], "the parent's engine still works"
