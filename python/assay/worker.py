"""The compute thread: takes waiting sequences batch by batch through the model and hands out their results."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from assay.errors import DeviceFaultError, EngineDeadError
from assay.forward import Outcome, Request, Runnable, Sink, run_batch
from assay.scheduler import Lane, Scheduler

if TYPE_CHECKING:
    from assay.config import EngineConfig
    from assay.throughput import Throughput

logger = logging.getLogger(__name__)

JOIN_TIMEOUT_S = 60.0
"""How long `close` waits for the batch that is running."""


def new_scheduler(config: EngineConfig) -> Scheduler[Request]:
    """A scheduler with the engine's budgets."""
    return Scheduler(config.max_batch_tokens, config.max_batch_size, config.lookahead, config.scheduling_policy)


class _State:
    """What the compute thread shares with the Worker; it never holds the Worker itself, which may be freed."""

    def __init__(
        self, model: Runnable, config: EngineConfig, throughput: Throughput, before_batch: Callable[[], None]
    ) -> None:
        self.model = model
        self.config = config
        self.scheduler = new_scheduler(config)
        self.before_batch = before_batch
        self.throughput = throughput
        self.wake = threading.Condition()  # re-entrant: garbage collection may call close() inside next_batch()
        self.model_in_use = threading.Lock()  # held while a batch runs, by whichever thread runs it
        self.running: list[Request] = []  # whose outcomes are not handed out yet
        self.num_computing = 0
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
        self.fail(waiting)

    def die(self, death: BaseException) -> None:
        """Close, and fail what was running."""
        self.close(death)
        self.fail(self.running)
        self.running = []

    def fail(self, requests: Iterable[Request]) -> None:
        for sink in dict.fromkeys(request.sink for request in requests):
            sink.fail(self.dead_error())

    def dead_error(self) -> EngineDeadError:
        if self.death is None:
            return EngineDeadError("the engine is closed")
        return EngineDeadError(f"the compute thread stopped: {self.death!r}")

    def run(self, batch: list[Request]) -> None:
        """Run a batch and deliver its outcomes; the caller holds `model_in_use`."""
        self.running = batch = [request for request in batch if request.sink.is_wanted()]
        if not batch:
            return
        start = time.perf_counter()
        self.num_computing = len(batch)
        try:
            outcomes = run_batch(self.model, batch)
        finally:
            self.num_computing = 0  # before anyone has an outcome and looks
        compute_s = time.perf_counter() - start
        self.throughput.add(sum(len(request.sequence.input_ids) for request in batch), len(batch), compute_s)
        shares: dict[Sink, tuple[list[Request], list[Outcome]]] = {}
        for request, outcome in zip(batch, outcomes, strict=True):
            requests, theirs = shares.setdefault(request.sink, ([], []))
            requests.append(request)
            theirs.append(outcome)
        for sink, (requests, theirs) in shares.items():
            sink.deliver(requests, theirs, compute_s)
        self.running = []


class Worker:
    """Owns the compute thread. Thread safe; `close` is idempotent and also runs when the object is freed.

    before_batch is called on the compute thread before it picks a batch; it may clear lanes.
    """

    def __init__(
        self, model: Runnable, config: EngineConfig, throughput: Throughput, before_batch: Callable[[], None]
    ) -> None:
        self._state = _State(model, config, throughput, before_batch)
        self._thread = threading.Thread(target=_compute_loop, args=(self._state,), name="assay-compute", daemon=True)
        self._finalizer = weakref.finalize(self, _shut_down, self._state, self._thread)
        self._thread.start()

    def new_lane(self, priority: int = 0) -> Lane[Request]:
        """A place in the queue for one job."""
        with self._state.wake:
            return self._state.scheduler.new_lane(priority)

    def submit(self, requests: Iterable[Request], lane: Lane[Request]) -> None:
        """Queue requests in order; raises EngineDeadError once closed."""
        self.check_alive()
        state = self._state
        with state.wake:
            if state.is_closed:
                raise state.dead_error()
            for request in requests:
                state.scheduler.add(request, len(request.sequence.input_ids), lane)
            state.wake.notify()

    def run_here_or_submit(self, requests: list[Request], lane: Lane[Request]) -> None:
        """Run a few requests in the caller's thread where nothing else waits or runs, else queue them.

        Two thread hand-overs cost as much as a short forward pass.
        """
        self.check_alive()
        state = self._state
        if not _is_on_cpu_by_default() or not state.model_in_use.acquire(blocking=False):
            self.submit(requests, lane)
            return
        try:
            is_free = len(state.scheduler) == 0 and not state.is_closed
            if is_free:
                _run_all(state, requests)
        except DeviceFaultError as err:
            logger.exception("the engine stopped")
            state.die(err)
            state.fail(requests)
        finally:
            state.running = []
            state.model_in_use.release()
        if not is_free:
            self.submit(requests, lane)

    def clear(self, lane: Lane[Request]) -> None:
        """Drop what waits in a lane; what runs already is not stopped."""
        with self._state.wake:
            self._state.scheduler.clear(lane)

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
    def death(self) -> str | None:
        """What stopped the compute thread; None while it runs and after an ordinary close."""
        return None if self._state.death is None else repr(self._state.death)

    @property
    def num_waiting(self) -> int:
        """Requests that no batch has taken yet."""
        return len(self._state.scheduler)

    @property
    def num_running(self) -> int:
        """Requests of the batch that is being computed."""
        return self._state.num_computing

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or runs."""
        return len(self._state.scheduler) == 0 and not self._state.model_in_use.locked()

    def die(self, death: BaseException) -> None:
        """Stop as if the compute thread had met this exception."""
        self._state.close(death)

    def close(self) -> None:
        """Fail what waits, let the running batch finish and join the thread."""
        self._finalizer()


def _shut_down(state: _State, thread: threading.Thread) -> None:
    if state.pid != os.getpid():  # a forked child has the objects but not the thread
        return
    state.close()
    if thread.is_alive() and thread is not threading.current_thread():
        thread.join(JOIN_TIMEOUT_S)


def _compute_loop(state: _State) -> None:
    try:
        while True:
            with state.wake:
                while not state.is_closed and len(state.scheduler) == 0:
                    state.wake.wait()
                if state.is_closed:
                    return
            with state.model_in_use:
                state.before_batch()  # only now: another thread's batch took its time, and more work came meanwhile
                with state.wake:
                    batch = state.scheduler.next_batch()
                state.run(batch)
            batch = []  # keep nothing alive while waiting
    except BaseException as err:
        logger.exception("the compute thread stopped")
        state.die(err)


def _run_all(state: _State, requests: list[Request]) -> None:
    """Run requests in the batches an empty scheduler makes of them."""
    scheduler = new_scheduler(state.config)
    for request in requests:
        scheduler.add(request, len(request.sequence.input_ids))
    while len(scheduler) > 0:
        state.run(scheduler.next_batch())


def _is_on_cpu_by_default() -> bool:
    """Whether tensors the calling thread makes land on the CPU: torch.set_default_device is per thread."""
    import torch

    return torch.get_default_device().type == "cpu"
