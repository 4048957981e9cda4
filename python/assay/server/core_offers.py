"""When kernel threads offer their cores: not for one short request alone, which nobody but its own client waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

SHORT_BODY: Final = 16 * 1024
"""Bytes up to which a request is short: some milliseconds to some tenths of a second of work."""


class CoreOffers:
    """Counts what is being worked on and switches `ops.set_gives_way`. For the event loop's thread only.

    Offers cost one short request alone about 2 % of its time. With a second request inside, the thread that answers
    has work while others compute; with a long one, whoever asks /health shall not wait for it.
    """

    def __init__(self, switch: Callable[[bool], None]) -> None:
        self._switch = switch
        self._weight = 0

    def add(self, weight: int) -> None:
        """A request came in, was found long, or (below 0) left."""
        before, self._weight = self._weight > 1, self._weight + weight
        if before != (self._weight > 1):
            self._switch(not before)
