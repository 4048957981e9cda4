"""The engine: admits jobs, has them tokenised on a small pool of threads and computed on one, and says how it fares."""

from __future__ import annotations

import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assay import ops
from assay.admission import Admission
from assay.engine.ticket import FEW_PROMPTS, Parts, Ticket
from assay.errors import EngineDeadError
from assay.forward import Request
from assay.niceness import niceness, set_niceness
from assay.result_cache import ResultCache
from assay.throughput import Throughput
from assay.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from torch import Tensor

    from assay.batch import Sequence
    from assay.config import EngineConfig
    from assay.engine.job import Job, Result
    from assay.forward import Outcome, Runnable
    from assay.rendering import Renderer

AHEAD_BATCHES = 4
"""How far one job is tokenised ahead of the model, in units of max_batch_size prompts."""
AHEAD_TOKEN_BUDGETS = 16
"""The same in units of max_batch_tokens: prompts may be long."""
GATHERED_TOKEN_BUDGETS = 2
"""What a job that is alone gathers before the model begins, in units of max_batch_tokens."""
IMAGE_THREADS = 16
"""Chunks of prompts whose images are being fetched at a time."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine at one moment. batches, items, tokens: computed since it was made.

    queued_tokens, queued_items: of all jobs, not computed yet (tokens of a prompt are estimated until it is
    tokenised); running_items: in the batch being computed; oldest_age_s: of the oldest job.
    drain_tokens_per_s: tokens per second of computing, of late. batch_fill: tokens of a batch over the token budget,
    of late. death: what stopped the compute thread.
    """

    is_alive: bool
    is_draining: bool
    death: str | None
    num_jobs: int
    queued_tokens: int
    queued_items: int
    running_items: int
    oldest_age_s: float
    drain_tokens_per_s: float
    batch_fill: float
    batches: int
    items: int
    tokens: int
    cache_hits: int
    cache_misses: int
    cache_bytes: int


class Engine:
    """Serves one model to any number of caller threads. A context manager; `close` also runs when it is freed."""

    def __init__(
        self,
        model: Runnable,
        renderer: Renderer,
        config: EngineConfig,
        *,
        wake: Callable[[], None] = ops.wake_threads,
    ) -> None:
        """wake: called when a short input is about to be computed."""
        self._throughput = Throughput(config.max_batch_tokens)
        admission = Admission(config.max_queued_tokens, self._throughput)
        worker = Worker(model, config, self._throughput, admission.expire_overdue)
        self._parts = Parts(
            renderer=renderer,
            # Its threads start at the first job, whose caller may be the thread that answers requests.
            pool=ThreadPoolExecutor(config.tokenizer_threads, "assay-tokenize", set_niceness, (niceness(),)),
            image_pool=ThreadPoolExecutor(IMAGE_THREADS, "assay-images", set_niceness, (niceness(),)),
            worker=worker,
            admission=admission,
            cache=ResultCache(config.result_cache_bytes) if config.result_cache_bytes else None,
            max_chunks=config.tokenizer_threads + 1,
            max_prompts=AHEAD_BATCHES * config.max_batch_size,
            max_tokens=AHEAD_TOKEN_BUDGETS * config.max_batch_tokens,
            gather_tokens=GATHERED_TOKEN_BUDGETS * config.max_batch_tokens,
            wake=wake,
        )
        self._finalizer = weakref.finalize(self, _shut_down, self._parts)

    def start(self, job: Job) -> Ticket:
        """Take a job in and return at once.

        Raises OverloadedError (above max_queued_tokens), EngineDrainingError or EngineDeadError; whatever else goes
        wrong fails the ticket's future: ValidationError of a prompt, DeadlineExceededError, BatchMemoryError, ...
        A NaN or Inf result is that result's own error, as in `run`.
        """
        self._parts.worker.check_alive()
        ticket = Ticket(self._parts, job)
        ticket.start()
        return ticket

    def run(self, job: Job) -> Generator[Result]:
        """Results in the order of the prompts; raises what `start` raises, and what fails its future.

        An exception, or leaving the iteration early, drops everything that remains; a NaN or Inf result is not an
        exception but that prompt's error.
        """
        self._parts.worker.check_alive()
        ticket = Ticket(self._parts, job)
        try:
            if len(job) <= FEW_PROMPTS:
                self._parts.wake()
                ticket.run_here()
            else:
                ticket.start()
            yield from ticket.in_order()
        finally:
            ticket.cancel()
            del ticket  # as in `Ticket.in_order`

    def submit(
        self,
        sequence: Sequence,
        *,
        use_activation: bool = True,
        dimensions: int | None = None,
        model: Runnable | None = None,
    ) -> Future[Tensor]:
        """Queue one sequence, for an adapted model where one is given.

        The future gives its tensor, NonFiniteError or EngineDeadError; it can be cancelled.
        """
        sink = _Single()
        worker = self._parts.worker
        worker.submit([Request(sequence, use_activation, dimensions, sink, model=model)], worker.new_lane())
        return sink.future

    def stats(self) -> EngineStats:
        """How the engine fares; cheap."""
        worker, admission, cache = self._parts.worker, self._parts.admission, self._parts.cache
        running_items, throughput = worker.num_running, self._throughput
        return EngineStats(
            is_alive=worker.is_alive,
            is_draining=admission.is_draining,
            death=worker.death,
            num_jobs=admission.num_jobs,
            queued_tokens=admission.num_tokens,
            queued_items=max(0, admission.num_items - running_items),
            running_items=running_items,
            oldest_age_s=admission.oldest_age_s(),
            drain_tokens_per_s=throughput.tokens_per_s,
            batch_fill=throughput.batch_fill,
            batches=throughput.num_batches,
            items=throughput.num_items,
            tokens=throughput.num_tokens,
            cache_hits=0 if cache is None else cache.num_hits,
            cache_misses=0 if cache is None else cache.num_misses,
            cache_bytes=0 if cache is None else cache.num_bytes,
        )

    def drain(self, timeout_s: float) -> bool:
        """Refuse new jobs from now on (EngineDrainingError) and wait for those inside: whether they all ended."""
        self._parts.admission.refuse_all()
        return self._parts.admission.wait_until_idle(timeout_s)

    @property
    def is_alive(self) -> bool:
        """Whether requests are still served."""
        return self._parts.worker.is_alive

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a batch."""
        return self._parts.worker.num_waiting

    def close(self) -> None:
        """Stop the threads; what waits gets EngineDeadError. Idempotent."""
        self._finalizer()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Single:
    """The sink of one sequence that is not part of a job."""

    def __init__(self) -> None:
        self.future: Future[Tensor] = Future()

    def is_wanted(self) -> bool:
        return self.future.set_running_or_notify_cancel()

    def deliver(self, requests: list[Request], outcomes: list[Outcome], compute_s: float) -> None:
        (outcome,) = outcomes
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def fail(self, error: Exception) -> None:
        if self.future.done():
            return
        if self.future.running() or self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


def _shut_down(parts: Parts) -> None:
    parts.worker.close()
    parts.pool.shutdown(wait=False, cancel_futures=True)
    parts.image_pool.shutdown(wait=False, cancel_futures=True)
    parts.admission.fail_all(EngineDeadError("the engine is closed"))  # those whose chunks the pool has dropped
