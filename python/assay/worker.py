"""The compute thread: takes waiting sequences batch by batch through the model and resolves their futures."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from assay.batch import RaggedBatch, Sequence, pack
from assay.errors import AssayError, EngineDeadError, NonFiniteError
from assay.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

logger = logging.getLogger(__name__)

JOIN_TIMEOUT_S = 60.0
"""How long `close` waits for the batch that is running."""


class Runnable(Protocol):
    """The part of a model the compute thread needs."""

    @property
    def position_offset(self) -> int:
        """What `pack` adds to every position."""
        ...

    def run(
        self, batch: RaggedBatch, use_activation: list[bool], dimensions: list[int | None] | None = None
    ) -> list[Tensor]:
        """One float32 CPU tensor per sequence."""
        ...


@dataclass(slots=True, eq=False)
class Request:
    """One sequence on its way through the model."""

    sequence: Sequence
    use_activation: bool = True
    dimensions: int | None = None
    future: Future[Tensor] = field(default_factory=Future)


class _State:
    """What the compute thread shares with the Worker; it never holds the Worker itself, which may be freed."""

    def __init__(self, scheduler: Scheduler[Request]) -> None:
        self.scheduler = scheduler
        self.wake = threading.Condition()  # re-entrant: garbage collection may call close() inside next_batch()
        self.model_in_use = threading.Lock()  # held while a batch runs, by whichever thread runs it
        self.is_closed = False
        self.death: BaseException | None = None
        self.pid = os.getpid()

    def close(self, death: BaseException | None = None) -> None:
        """Refuse new work and fail what waits; the batch that is running still finishes."""
        with self.wake:
            self.is_closed = True
            self.death = self.death or death
            waiting = self.scheduler.drain()
            self.wake.notify_all()
        for request in waiting:
            if request.future.set_running_or_notify_cancel():
                request.future.set_exception(self.dead_error())

    def dead_error(self) -> EngineDeadError:
        if self.death is None:
            return EngineDeadError("the engine is closed")
        return EngineDeadError(f"the compute thread stopped: {self.death!r}")


class Worker:
    """Owns the compute thread. Thread safe; `close` is idempotent and also runs when the object is freed."""

    def __init__(self, model: Runnable, max_batch_tokens: int, max_batch_size: int, lookahead: int) -> None:
        self._model, self._budgets = model, (max_batch_tokens, max_batch_size, lookahead)
        self._state = _State(Scheduler(*self._budgets))
        self._thread = threading.Thread(
            target=_compute_loop, args=(self._state, model), name="assay-compute", daemon=True
        )
        self._finalizer = weakref.finalize(self, _shut_down, self._state, self._thread)
        self._thread.start()

    def submit(self, requests: Iterable[Request]) -> None:
        """Queue requests in order; raises EngineDeadError once closed."""
        self.check_alive()
        state = self._state
        with state.wake:
            if state.is_closed:
                raise state.dead_error()
            for request in requests:
                state.scheduler.add(request, len(request.sequence.input_ids))
            state.wake.notify()

    def run_here_or_submit(self, requests: list[Request]) -> None:
        """Run a few requests in the caller's thread where nothing else waits or runs, else queue them.

        Two thread hand-overs cost as much as a short forward pass; the caller would only wait meanwhile.
        """
        self.check_alive()
        state = self._state
        if not _is_on_cpu_by_default() or not state.model_in_use.acquire(blocking=False):
            self.submit(requests)
            return
        try:
            is_free = len(state.scheduler) == 0 and not state.is_closed
            if is_free:
                _run_all(self._model, requests, Scheduler(*self._budgets))
        finally:
            state.model_in_use.release()
        if not is_free:
            self.submit(requests)

    def check_alive(self) -> None:
        """Raise EngineDeadError where no thread would answer."""
        if self._state.pid != os.getpid():
            raise EngineDeadError("the engine belongs to the parent process: create the LLM after the fork")
        if self._state.is_closed:
            raise self._state.dead_error()

    @property
    def is_alive(self) -> bool:
        """Whether requests are still served."""
        return not self._state.is_closed and self._thread.is_alive()

    @property
    def num_waiting(self) -> int:
        """Requests that no batch has taken yet."""
        return len(self._state.scheduler)

    def close(self) -> None:
        """Fail what waits, let the running batch finish and join the thread."""
        self._finalizer()


def _shut_down(state: _State, thread: threading.Thread) -> None:
    if state.pid != os.getpid():  # a forked child has the objects but not the thread
        return
    state.close()
    if thread.is_alive() and thread is not threading.current_thread():
        thread.join(JOIN_TIMEOUT_S)


def _compute_loop(state: _State, model: Runnable) -> None:
    live: list[Request] = []
    try:
        while True:
            with state.wake:
                while not state.is_closed and len(state.scheduler) == 0:
                    state.wake.wait()
                if state.is_closed:
                    return
                batch = state.scheduler.next_batch()
            live = [request for request in batch if request.future.set_running_or_notify_cancel()]
            if live:
                with state.model_in_use:
                    _run(model, live)
            live, batch = [], []  # keep nothing alive while waiting
    except BaseException as err:
        logger.exception("the compute thread stopped")
        state.close(err)
        for request in live:
            if not request.future.done():
                request.future.set_exception(state.dead_error())


def _run_all(model: Runnable, requests: list[Request], scheduler: Scheduler[Request]) -> None:
    """Run requests in the batches an empty scheduler makes of them."""
    for request in requests:
        request.future.set_running_or_notify_cancel()
        scheduler.add(request, len(request.sequence.input_ids))
    while len(scheduler) > 0:
        _run(model, scheduler.next_batch())


def _is_on_cpu_by_default() -> bool:
    """Whether tensors the calling thread makes land on the CPU: torch.set_default_device is per thread."""
    import torch

    return torch.get_default_device().type == "cpu"


def _run(model: Runnable, requests: list[Request]) -> None:
    """Run a batch and resolve its futures. One that fails is tried one by one, so no input can fail another."""
    try:
        results = _forward(model, requests)
    except Exception as err:
        if len(requests) == 1:
            requests[0].future.set_exception(_as_request_error(err))
            return
        logger.warning("a batch of %d failed (%r): running its sequences one by one", len(requests), err)
        for request in requests:
            _run(model, [request])
        return
    for request, data, is_finite in zip(requests, results, _finite(results), strict=True):
        if is_finite:
            request.future.set_result(data)
        else:
            request.future.set_exception(NonFiniteError("the result contains NaN or infinity"))


def _forward(model: Runnable, requests: list[Request]) -> list[Tensor]:
    import torch

    batch = pack([request.sequence for request in requests], model.position_offset)
    dimensions = [request.dimensions for request in requests]
    with torch.no_grad():
        results = model.run(batch, [request.use_activation for request in requests], dimensions)
    if len(results) != len(requests):
        raise RuntimeError(f"the model returned {len(results)} results for {len(requests)} sequences")
    return results


def _as_request_error(err: Exception) -> Exception:
    return err if isinstance(err, AssayError | ValueError | MemoryError) else RuntimeError(f"the model failed: {err!r}")


def _finite(results: list[Tensor]) -> list[bool]:
    """Which results hold neither NaN nor infinity; one pass over all of them where they are short vectors."""
    import torch

    if len(results) > 1 and results[0].ndim == 1 and bool(torch.isfinite(torch.cat(results)).all()):
        return [True] * len(results)
    return [bool(torch.isfinite(data).all()) for data in results]
