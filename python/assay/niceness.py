"""Who goes first where threads want the same core: threads that compute give way to the one that answers.

On Linux a niceness belongs to a thread and is inherited by the threads it starts; elsewhere it belongs to the process,
and nothing is done.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

HAS_THREAD_NICENESS: Final = sys.platform == "linux"
LOWEST_PRIORITY: Final = 19
"""The niceness that nothing goes beyond."""

T = TypeVar("T")


def niceness() -> int:
    """Of the calling thread; 0 where threads have none of their own."""
    return os.getpriority(os.PRIO_PROCESS, 0) if HAS_THREAD_NICENESS else 0


def set_niceness(value: int) -> None:
    """Make the calling thread as nice as that, at most LOWEST_PRIORITY; less nice takes a privilege, and is left."""
    if HAS_THREAD_NICENESS and value > niceness():
        os.setpriority(os.PRIO_PROCESS, 0, min(value, LOWEST_PRIORITY))


def call_nicer(by: int, work: Callable[[], T]) -> T:
    """work(), in a thread that is nicer than the caller by that much; so are the threads it starts."""
    if by == 0 or not HAS_THREAD_NICENESS:
        return work()
    outcome: Future[T] = Future()
    target = niceness() + by

    def run() -> None:
        set_niceness(target)
        try:
            outcome.set_result(work())
        except BaseException as err:
            outcome.set_exception(err)

    # A daemon: an interrupt of the caller, which waits, ends the process and not only the waiting.
    threading.Thread(target=run, name="assay-nicer", daemon=True).start()
    return outcome.result()
