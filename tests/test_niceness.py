"""Threads that compute give way to the one that answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

import llms
from assay import niceness
from assay.server.runner import Runner
from assay.server.settings import RequestPolicy

linux = pytest.mark.skipif(not niceness.HAS_THREAD_NICENESS, reason="a niceness belongs to a thread on Linux only")


def nicer(by: int) -> int:
    return min(niceness.LOWEST_PRIORITY, niceness.niceness() + by)


@linux
def test_what_a_nicer_thread_starts_is_as_nice_and_the_caller_stays_as_it_was() -> None:
    before = niceness.niceness()

    def inside() -> tuple[int, int]:
        with ThreadPoolExecutor(1) as pool:
            return niceness.niceness(), pool.submit(niceness.niceness).result()

    assert niceness.call_nicer(3, inside) == (nicer(3), nicer(3))
    assert niceness.niceness() == before
    assert niceness.call_nicer(0, niceness.niceness) == before


def test_what_fails_in_a_nicer_thread_fails_in_the_caller() -> None:
    def broken() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        niceness.call_nicer(1, broken)


@linux
def test_a_less_nice_value_is_left() -> None:
    before = niceness.niceness()
    assert niceness.call_nicer(2, lambda: (niceness.set_niceness(before), niceness.niceness())[1]) == nicer(2)


@linux
def test_an_engine_made_by_a_nicer_thread_tokenises_and_computes_nicely() -> None:
    with niceness.call_nicer(4, llms.load) as llm:
        parts = llm.session.engine._parts
        seen: list[int] = []
        run = llm.session.model.run

        def noting(*args: object, **kwargs: object) -> object:
            seen.append(niceness.niceness())
            return run(*args, **kwargs)

        llm.session.model.run = noting  # type: ignore[method-assign,assignment]
        llm.classify(["x"] * 20, use_tqdm=False)  # too many to be computed by the caller
        assert set(seen) == {nicer(4)}
        assert parts.pool.submit(niceness.niceness).result() == nicer(4)


@linux
def test_threads_of_the_servers_runner_are_nicer_than_the_one_that_answers() -> None:
    runner = Runner(RequestPolicy(), nicer_by=5)
    try:
        assert runner.threads.submit(niceness.niceness).result() == nicer(5)
    finally:
        runner.close()
