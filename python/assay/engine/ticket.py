"""One job on its way: tokenised chunk by chunk, queued, and its results collected in order."""

from __future__ import annotations

import threading
import time
import weakref
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assay.admission import Admission, Admitted
from assay.engine.job import Result, Times
from assay.errors import (
    AssayError,
    BatchMemoryError,
    DeadlineExceededError,
    EngineDeadError,
    NonFiniteError,
    without_traceback,
)
from assay.forward import Request
from assay.media import Illustrated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from assay.content import Content
    from assay.engine.job import Job
    from assay.forward import Outcome
    from assay.rendering import Renderer
    from assay.result_cache import ResultCache
    from assay.worker import Worker

FEW_PROMPTS = 4
"""Up to this many prompts are computed by the thread that tokenises them, where the model is free."""
GATHER_S = 0.02
"""How long a job that is alone waits at most for its first batches to fill."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the tickets of one engine share.

    image_pool: for chunks with images, whose threads mostly wait for them: texts shall not wait behind.
    max_chunks: chunks of one job that are with the pool at a time; more would delay the chunks of other jobs.
    max_prompts, max_tokens: how far one job is tokenised ahead; bounds memory, and what a stop has wasted.
    gather_tokens: what a job that is alone gathers before the model begins with it.
    wake: called when a short input is about to be computed.
    """

    renderer: Renderer
    pool: ThreadPoolExecutor
    image_pool: ThreadPoolExecutor
    worker: Worker
    admission: Admission
    cache: ResultCache | None
    max_chunks: int
    max_prompts: int
    max_tokens: int
    gather_tokens: int
    wake: Callable[[], None]


class Ticket:
    """Follows one job. `future` gives its results in the order of the prompts, or the first exception.

    Cancelling the future is the same as `cancel`. Thread safe. Once it is over nothing in the engine refers to it, nor
    it to itself: its results are freed when the caller lets them go, and not by a garbage collection some time later.
    """

    def __init__(self, parts: Parts, job: Job) -> None:
        self.future: Future[list[Result]] = Future()
        self.times = Times()
        self.num_tokens = 0
        """Tokens of the prompts tokenised so far, as they are computed."""
        self._parts = parts
        self._job = job
        self._first_texts: dict[str, Content] = {}  # a query is tokenised once, whatever the number of its documents
        self._start = time.perf_counter()
        self._lane = parts.worker.new_lane(job.priority)
        self._changed = threading.Condition()  # re-entrant: garbage collection may close the engine inside
        self._chunks = job.chunks()
        self._next_chunk = next(self._chunks, None)
        self._tokenizing: set[int] = set()  # first prompts of the chunks that are with the pool
        self._results: list[Result | None] = [None] * len(job)
        self._num_done = 0
        self._num_ahead = 0  # prompts that are with the pool or wait for the model
        self._tokens_ahead = 0
        self._is_gathering = len(job) > FEW_PROMPTS
        self._gathered: list[Request] = []
        self._failure: tuple[int, Exception] | None = None  # with the first prompt of the chunk it came from
        self._is_over = False
        estimate = job.estimated_tokens()
        self._estimate = estimate / max(1, len(job))
        self._admitted = Admitted(estimate, len(job), job.deadline)
        parts.admission.enter(self._admitted, self.fail)

    @property
    def num_items(self) -> int:
        """Prompts of the job."""
        return len(self._job)

    def start(self) -> None:
        """Have the pool tokenise the first chunks."""
        self.future.add_done_callback(_stop_if_cancelled(weakref.ref(self)))
        if len(self._job) == 0:
            self._finish()
        self._tokenize_more()

    def run_here(self) -> None:
        """Tokenise everything in the calling thread, and compute it there too where the model is free."""
        self._next_chunk = None
        requests = self._requests(0, len(self._job))
        self._parts.worker.run_here_or_submit(requests, self._lane)

    def cancel(self) -> None:
        """Drop what remains: nothing but the batch that is running now is computed any more. Idempotent."""
        self._end()
        self.future.cancel()

    def in_order(self) -> Iterator[Result]:
        """Results as they come, in the order of the prompts; raises what ends the job."""
        try:
            for index in range(len(self._results)):
                result = self._results[index]
                if result is None:
                    with self._changed:
                        while (result := self._results[index]) is None and not self._is_over:
                            self._changed.wait()
                if result is None:
                    if self._failure is None:
                        raise CancelledError("the job was cancelled")
                    raise self._failure[1]
                yield result
        finally:
            del self  # the error knows this frame, and must not lead to the ticket, which has the error

    # ---- tokenising ------------------------------------------------------------------------------------------------

    def _tokenize_more(self) -> None:
        """Give chunks to the pool while few are there and few prompts wait for the model."""
        parts = self._parts
        while True:
            with self._changed:
                chunk = self._next_chunk
                if chunk is None or self._is_over or self._failure is not None:
                    return
                size = chunk[1] - chunk[0]
                is_full = self._num_ahead + size > parts.max_prompts or self._tokens_ahead >= parts.max_tokens
                if len(self._tokenizing) >= parts.max_chunks or (is_full and self._num_ahead > 0):
                    return
                self._next_chunk = next(self._chunks, None)
                self._tokenizing.add(chunk[0])
                self._num_ahead += size
            prompts = self._job.prompts[chunk[0] : chunk[1]]
            has_images = any(isinstance(prompt, Illustrated) and prompt.images for prompt in prompts)
            try:
                (parts.image_pool if has_images else parts.pool).submit(self._tokenize, *chunk)
            except RuntimeError as err:  # the pool was shut down
                error = EngineDeadError("the engine is closed")
                error.__cause__ = err
                self.fail(error)

    def _tokenize(self, start: int, stop: int) -> None:
        """A task of the pool: tokenise a chunk and queue it. Nothing raised here would be seen, so all is caught."""
        requests: list[Request] = []
        try:
            if not self._is_over:
                if len(self._job) <= FEW_PROMPTS and self._parts.worker.is_idle:
                    self._parts.wake()
                requests = self._requests(start, stop)
        except BaseException as err:  # a panic of the tokenizer's Rust code is not an Exception
            self._note_failure(start, _tokenize_error(err))
        with self._changed:
            self._tokenizing.discard(start)
        self._fail_if_decided()
        self._tokenize_more()
        if requests := self._ready(requests):
            self._queue(requests)

    def _ready(self, requests: list[Request]) -> list[Request]:
        """What the model shall have now of what is tokenised.

        Begun with the first chunk, it would compute a small batch on cores that tokenise the next ones, and each of its
        threads would wait at every barrier for the one that lost its core.
        """
        with self._changed:
            self._gathered += requests
            if self._is_gathering and self._tokenizing and self._tokens_ahead < self._parts.gather_tokens:
                is_alone = self._parts.admission.num_jobs == 1
                if is_alone and time.perf_counter() - self._start < GATHER_S:
                    return []
            self._is_gathering = False
            ready, self._gathered = self._gathered, []
            return ready

    def _queue(self, requests: list[Request]) -> None:
        worker = self._parts.worker
        try:
            if len(self._job) <= FEW_PROMPTS:
                worker.run_here_or_submit(requests, self._lane)
            else:
                worker.submit(requests, self._lane)
        except EngineDeadError as err:
            self.fail(err)
        except BaseException as err:  # what would stop the compute thread must not go unseen because it happened here
            worker.die(err)
            self.fail(EngineDeadError(f"the compute thread stopped: {err!r}"))
        if self._is_over:  # it ended while these were on their way
            worker.clear(self._lane)

    def _requests(self, start: int, stop: int) -> list[Request]:
        """Tokenise job.prompts[start:stop]; results that are known already are kept, requests made of the rest."""
        job, began = self._job, time.perf_counter()
        if job.deadline is not None and time.monotonic() >= job.deadline:
            raise DeadlineExceededError(f"the deadline passed with {self._admitted.num_items} items not computed")
        first_ones = None if job.first_ones is None else job.first_ones[start:stop]
        prompts = job.prompts[start:stop]
        sequences = self._parts.renderer.render(prompts, job.options, first_ones, start, self._first_texts)
        requests = [
            Request(
                sequence,
                job.use_activation[index],
                job.dimensions[index] if job.dimensions else None,
                self,
                index,
                job.models[index] if job.models else None,
            )
            for index, sequence in enumerate(sequences, start)
        ]
        num_tokens = sum([len(sequence.input_ids) for sequence in sequences])
        with self._changed:
            self.times.tokenize_s += time.perf_counter() - began
            self.num_tokens += num_tokens
            self._tokens_ahead += num_tokens
        self._parts.admission.progress(self._admitted, num_tokens - self._estimate * len(requests))
        return requests if self._parts.cache is None else self._not_cached(self._parts.cache, requests)

    def _not_cached(self, cache: ResultCache, requests: list[Request]) -> list[Request]:
        missing: list[Request] = []
        known: list[Request] = []
        found: list[Outcome] = []
        for request in requests:
            data = cache.get(self._job.salt(request.index), request.key())
            if data is None:
                missing.append(request)
            else:
                known.append(request)
                found.append(data)
        if known:
            self._take(known, found, 0.0)
        return missing

    # ---- results (a Sink) ------------------------------------------------------------------------------------------

    def is_wanted(self) -> bool:
        """Whether requests of this job shall still run."""
        return not self._is_over

    def deliver(self, requests: list[Request], outcomes: list[Outcome], compute_s: float) -> None:
        """Take the outcomes of one batch."""
        cache = self._parts.cache
        if cache is not None:
            for request, outcome in zip(requests, outcomes, strict=True):
                if not isinstance(outcome, Exception):
                    num_tokens = len(request.sequence.input_ids)
                    cache.put(self._job.salt(request.index), request.key(), num_tokens, outcome)
        self._take(requests, outcomes, compute_s)

    def fail(self, error: Exception) -> None:
        """End the job with an error."""
        if self._end((-1, error)) and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def _take(self, requests: list[Request], outcomes: list[Outcome], compute_s: float) -> None:
        num_tokens = 0
        error: Exception | None = None
        with self._changed:
            if self._is_over:
                return
            for request, outcome in zip(requests, outcomes, strict=True):
                num_tokens += len(request.sequence.input_ids)
                if isinstance(outcome, NonFiniteError):
                    self._results[request.index] = _result(request, None, outcome)
                elif isinstance(outcome, Exception):
                    error = error or outcome
                else:
                    self._results[request.index] = _result(request, outcome)
            self._num_done += len(requests)
            self._num_ahead -= len(requests)
            self._tokens_ahead -= num_tokens
            self.times.compute_s += compute_s
            is_done = self._num_done == len(self._job)
            if not is_done:
                self._changed.notify_all()
        if error is not None:
            self.fail(error)
        elif is_done:
            self._finish()
        else:
            self._parts.admission.progress(self._admitted, -num_tokens, -len(requests))
            self._tokenize_more()

    def _finish(self) -> None:
        if self._end() and self.future.set_running_or_notify_cancel():
            self.future.set_result([result for result in self._results if result is not None])

    # ---- ends ------------------------------------------------------------------------------------------------------

    def _note_failure(self, start: int, error: Exception) -> None:
        """Fail once the chunks before this one are tokenised: the error of the first bad prompt shall be the one."""
        with self._changed:
            if self._failure is None or start < self._failure[0]:
                self._failure = (start, error)

    def _fail_if_decided(self) -> None:
        with self._changed:
            if self._is_over or self._failure is None:
                return
            start, error = self._failure
            if any(earlier < start for earlier in self._tokenizing):
                return
        self.fail(error)

    def _end(self, failure: tuple[int, Exception] | None = None) -> bool:
        """Whether this call was the one that ended the job."""
        with self._changed:
            if self._is_over:
                return False
            self._is_over = True
            self._failure = failure
            elapsed = time.perf_counter() - self._start
            self.times.queue_s = max(0.0, elapsed - self.times.tokenize_s - self.times.compute_s)
            self._changed.notify_all()
        self._parts.worker.clear(self._lane)
        self._parts.admission.leave(self._admitted)
        return True


def _stop_if_cancelled(ticket: weakref.ref[Ticket]) -> Callable[[Future[list[Result]]], None]:
    """A callback of the ticket's future, which keeps it for good; what runs keeps the ticket alive while it matters."""

    def done(future: Future[list[Result]]) -> None:
        still_there = ticket()
        if still_there is not None and future.cancelled():
            still_there._end()

    return done


def _result(request: Request, data: Tensor | None, error: NonFiniteError | None = None) -> Result:
    sequence = request.sequence
    return Result(
        request.index,
        sequence.input_ids,
        data,
        error,
        sequence.is_truncated,
        sequence.num_tokens_before_truncation,
    )


def _tokenize_error(err: BaseException) -> Exception:
    """What the caller gets. Only of what nobody expected it is of use to know where it happened."""
    error: Exception
    if isinstance(err, AssayError | MemoryError):
        without_traceback(err)
    if isinstance(err, MemoryError):
        error = BatchMemoryError(f"out of memory while tokenising: {err}")
    elif isinstance(err, Exception):
        return err
    else:
        error = RuntimeError(f"the tokenizer failed: {err!r}")
    error.__cause__ = err
    return error
