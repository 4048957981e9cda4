"""The bridge from the event loop to the engines: start a job, wait for it, or drop it with its client."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from assay.niceness import niceness, set_niceness
from assay.server.errors import ClientGone
from assay.server.prepare import is_heavy, prepare
from assay.server.result import Timing

if TYPE_CHECKING:
    from starlette.types import Receive

    from assay.engine import Result, Ticket
    from assay.server.prepare import PreparedCall
    from assay.server.request import Call
    from assay.server.result import Answer
    from assay.server.served import ServedModel
    from assay.server.settings import RequestPolicy

WATCHED_AFTER_S = 0.05
"""How long a request is inside before a task watches its client: a short one is answered before that."""
MANY_RESULTS = 256
"""Answers with more items than this are put together in a thread: the event loop answers /health meanwhile."""


class Runner:
    """Runs calls on served models. One per server; `close` stops its threads."""

    def __init__(self, policy: RequestPolicy, num_threads: int | None = None, *, nicer_by: int = 0) -> None:
        """nicer_by: how much its threads give way to the calling one, see `assay.niceness`."""
        self._policy = policy
        # One core is left to the event loop: a thread that loses its core to another one while it holds the
        # interpreter's lock keeps the loop waiting for both.
        count = num_threads or max(1, min(4, (os.cpu_count() or 1) - 1))
        self.threads = ThreadPoolExecutor(count, "assay-server", set_niceness, (niceness() + nicer_by,))

    async def run(self, call: Call, model: ServedModel, receive: Receive, *, is_large: bool = False) -> Answer:
        """The answer. Raises what preparing or the engine raises, and ClientGone once nobody waits for it.

        is_large: the request holds so much that preparing it would hold up the event loop.
        """
        prepared = await self._prepared(call, model, is_large)
        ticket = model.engine.start(prepared.job)
        try:
            found = await _outcome(ticket, receive)
            timing = _timing(ticket)
        finally:
            del ticket  # an error knows this frame: through the ticket, which has the error, it would keep the request
        if len(found) > MANY_RESULTS:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.threads, prepared.finish, found, timing)
        return prepared.finish(found, timing)

    async def _prepared(self, call: Call, model: ServedModel, is_large: bool) -> PreparedCall:
        if is_large or is_heavy(call):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.threads, prepare, call, model, self._policy)
        return prepare(call, model, self._policy)

    def close(self) -> None:
        """Stop the threads."""
        self.threads.shutdown(wait=False, cancel_futures=True)


async def _outcome(ticket: Ticket, receive: Receive) -> list[Result]:
    """The job's results; raises what it fails with, and ClientGone, which drops the job."""
    loop = asyncio.get_running_loop()
    is_over = loop.create_future()
    watchers: list[asyncio.Task[None]] = []

    def done(future: Future[list[Result]]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, is_over)

    def watch() -> None:
        watchers.append(loop.create_task(_watch(receive, is_over)))

    ticket.future.add_done_callback(done)
    timer = loop.call_later(WATCHED_AFTER_S, watch)
    try:
        await is_over
        if not ticket.future.done():
            raise ClientGone
        return ticket.future.result()
    finally:
        timer.cancel()
        for watcher in watchers:
            watcher.cancel()
        if not ticket.future.done():
            ticket.cancel()
        del ticket  # as in `Runner.run`


async def _watch(receive: Receive, is_over: asyncio.Future[None]) -> None:
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    finally:  # a connection that cannot be read has nobody at its other end either
        _settle(is_over)


def _settle(is_over: asyncio.Future[None]) -> None:
    if not is_over.done():
        is_over.set_result(None)


def _timing(ticket: Ticket) -> Timing:
    times = ticket.times
    return Timing(times.tokenize_s, times.queue_s, times.compute_s)
