"""What large requests leave behind in malloc is given back to the system a little later."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from typing import TYPE_CHECKING, Final

from assay.server.body import LARGE_BODY

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

PAUSE_S: Final = 5.0
"""Between two looks. Giving back takes a thread some milliseconds per 10 MiB, and what comes next must fault it in."""

TRIM_THRESHOLD_BYTES: Final = 8 << 20
"""Free memory at the end of a thread's heap from which malloc gives it back by itself."""
MMAP_THRESHOLD_BYTES: Final = 32 << 20
"""Blocks of this size get pages of their own. It is where glibc itself ends up after large blocks were freed."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def trim_early() -> None:
    """Have malloc keep less at the end of every thread's heap; for a process that is all ours.

    After the first large block glibc would keep up to 64 MiB there, times the threads, and malloc_trim does not look
    there. Settings in the environment win; nothing happens without glibc.
    """
    if "MALLOC_TRIM_THRESHOLD_" in os.environ or "GLIBC_TUNABLES" in os.environ or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)
        mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)


class SpareMemory:
    """Watches for large requests that are over. For the event loop's thread only.

    A megabyte of text is some 80 MiB of small objects while it becomes tokens. Every thread has a heap of its own for
    them, which malloc keeps at its largest size ever: unasked, a server holds the sum of the worst each thread has had.
    """

    def __init__(self, release: Callable[[], None]) -> None:
        self._release = release
        self._is_left = False

    def note(self, num_bytes: int) -> None:
        """A request whose body had so many bytes is over."""
        self._is_left = self._is_left or num_bytes >= LARGE_BODY

    async def watch(self, threads: Executor) -> None:
        """Have one of the threads give back what is left, for as long as the server lives."""
        while True:
            await asyncio.sleep(PAUSE_S)
            if self._is_left:
                self._is_left = False
                await asyncio.get_running_loop().run_in_executor(threads, self._release)
