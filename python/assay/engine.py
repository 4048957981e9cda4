"""Prompts in, results out in order: tokenisation on a small thread pool, compute on one thread."""

from __future__ import annotations

import weakref
from collections import deque
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from assay import ops
from assay.errors import EngineDeadError, NonFiniteError
from assay.worker import Request, Worker

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from torch import Tensor

    from assay.batch import Sequence
    from assay.config import EngineConfig
    from assay.rendering import Renderable, Renderer
    from assay.tokenize_options import TokenizeOptions
    from assay.worker import Runnable

INLINE_PROMPTS = 4
"""Calls of up to this many prompts are tokenised in the caller's thread: a hand-over would only add latency."""
FIRST_CHUNK, LAST_CHUNK = 8, 128
"""Prompts tokenised per task: small at first so that compute starts early, then doubling."""
STRIDE = 16
"""Results waited for at once: waking the caller for every one of them would cost the compute thread the GIL."""
WINDOW_BATCHES = 4
"""Prompts in flight per call, in units of max_batch_size: bounds memory and how late a stop is noticed."""


@dataclass(slots=True)
class Job:
    """The prompts of one call and what is asked of each; the lists are as long as `prompts`, or None for defaults."""

    prompts: list[Renderable]
    options: TokenizeOptions
    use_activation: list[bool]
    dimensions: list[int | None] | None = None
    first_ones: list[int | None] | None = None
    is_aborted: bool = field(default=False, init=False)

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(slots=True)
class Result:
    """What became of one prompt: data, or the error of this prompt alone."""

    index: int
    token_ids: list[int]
    data: Tensor | None
    error: NonFiniteError | None = None


class Engine:
    """Serves one model to any number of caller threads. A context manager; `close` also runs when it is freed."""

    def __init__(self, model: Runnable, renderer: Renderer, config: EngineConfig, max_model_len: int) -> None:
        self._renderer = renderer
        self._window = WINDOW_BATCHES * config.max_batch_size
        max_batch_tokens = max(config.max_batch_tokens, max_model_len)
        self._worker = Worker(model, max_batch_tokens, config.max_batch_size, config.lookahead)
        self._pool = ThreadPoolExecutor(config.tokenizer_threads, thread_name_prefix="assay-tokenize")
        self._finalizer = weakref.finalize(self, _shut_down, self._pool, self._worker)

    def submit(
        self, sequence: Sequence, *, use_activation: bool = True, dimensions: int | None = None
    ) -> Future[Tensor]:
        """Queue one sequence. The future gives its tensor, NonFiniteError or EngineDeadError; it can be cancelled."""
        request = Request(sequence, use_activation, dimensions)
        self._worker.submit([request])
        return request.future

    def run(self, job: Job) -> Generator[Result]:
        """Results in the order of the prompts.

        The first exception, of tokenisation or of the model, is raised once everything outstanding is aborted, and
        so is leaving the iteration early; a NaN or Inf result is not an exception but that prompt's error.
        """
        self._worker.check_alive()
        if len(job) <= INLINE_PROMPTS:
            ops.wake_threads()
            yield from self._results(0, self._submit_chunk(job, 0, len(job), in_caller=True))
            return
        chunks: deque[tuple[int, int, Future[list[Request]]]] = deque()
        spans = _chunk_spans(len(job))
        num_pending = 0
        try:
            span = next(spans, None)
            while span is not None or chunks:
                while span is not None and (num_pending + span[1] - span[0] <= self._window or not chunks):
                    chunks.append((*span, self._tokenize(job, *span)))
                    num_pending += span[1] - span[0]
                    span = next(spans, None)
                start, stop, requests = chunks[0]
                yield from self._results(start, _outcome(requests))
                chunks.popleft()
                num_pending -= stop - start
        finally:
            job.is_aborted = True
            for _, _, requests in chunks:
                _abort(requests)

    def _tokenize(self, job: Job, start: int, stop: int) -> Future[list[Request]]:
        try:
            return self._pool.submit(self._submit_chunk, job, start, stop)
        except RuntimeError as err:  # the pool was shut down
            raise EngineDeadError("the engine is closed") from err

    def _submit_chunk(self, job: Job, start: int, stop: int, *, in_caller: bool = False) -> list[Request]:
        """Tokenise job.prompts[start:stop] and queue the sequences, unless the call has been aborted meanwhile."""
        if job.is_aborted:
            return []
        first_ones = None if job.first_ones is None else job.first_ones[start:stop]
        sequences = self._renderer.render(job.prompts[start:stop], job.options, first_ones, start)
        dimensions = job.dimensions
        requests = [
            Request(sequence, job.use_activation[index], None if dimensions is None else dimensions[index])
            for index, sequence in enumerate(sequences, start)
        ]
        if in_caller:
            self._worker.run_here_or_submit(requests)
        elif not job.is_aborted:
            self._worker.submit(requests)
        return requests

    @staticmethod
    def _results(start: int, requests: list[Request]) -> Iterator[Result]:
        done = 0
        try:
            for index, request in enumerate(requests, start):
                if done % STRIDE == 0:
                    wait([requests[min(done + STRIDE, len(requests)) - 1].future])
                token_ids = request.sequence.input_ids
                try:
                    yield Result(index, token_ids, request.future.result())
                except NonFiniteError as err:
                    yield Result(index, token_ids, None, err)
                done += 1
        finally:
            for request in requests[done:]:
                request.future.cancel()

    @property
    def is_alive(self) -> bool:
        """Whether requests are still served."""
        return self._worker.is_alive

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a batch."""
        return self._worker.num_waiting

    def close(self) -> None:
        """Stop the threads; what waits gets EngineDeadError. Idempotent."""
        self._finalizer()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _shut_down(pool: ThreadPoolExecutor, worker: Worker) -> None:
    worker.close()
    pool.shutdown(wait=False, cancel_futures=True)


def _chunk_spans(count: int) -> Iterator[tuple[int, int]]:
    start, size = 0, FIRST_CHUNK
    while start < count:
        stop = min(count, start + size)
        yield start, stop
        start, size = stop, min(LAST_CHUNK, 2 * size)


def _outcome(chunk: Future[list[Request]]) -> list[Request]:
    try:
        return chunk.result()
    except CancelledError as err:  # only `close` cancels a chunk that someone waits for
        raise EngineDeadError("the engine is closed") from err


def _abort(chunk: Future[list[Request]]) -> None:
    """Cancel a chunk, or the requests it has queued; one still being tokenised cancels them when it is done."""

    def cancel_all(done: Future[list[Request]]) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        for request in done.result():
            request.future.cancel()

    if not chunk.cancel():
        chunk.add_done_callback(cancel_all)
