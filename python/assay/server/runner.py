"""The bridge from the event loop to the engines: start a job, wait for it, or drop it with its client."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
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
        results = asyncio.wrap_future(ticket.future)
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((results, gone), return_when=asyncio.FIRST_COMPLETED)
            if not results.done():
                raise ClientGone
            found = results.result()
        finally:
            gone.cancel()
            if not results.done():
                results.add_done_callback(_retrieve)
                ticket.cancel()
        timing = _timing(ticket)
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


def _retrieve(future: asyncio.Future[list[Result]]) -> None:
    """Take the outcome nobody waits for, which asyncio would otherwise complain about."""
    if not future.cancelled():
        future.exception()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _timing(ticket: Ticket) -> Timing:
    times = ticket.times
    return Timing(times.tokenize_s, times.queue_s, times.compute_s)
