"""Results of inputs that were seen before, exact to the bit; off unless memory is given to it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ENTRY_BYTES = 600
"""Python's own cost of an entry: the tensor object, its storage and the table's slot."""
BYTES_PER_TOKEN = 5
"""Of a key: four for the id, one for the type."""


class ResultCache:
    """Least recently used results in at most `max_bytes`. Thread safe.

    The key is all a result depends on: token ids, token types and options; a salt keeps its entries to itself.
    A score does not depend on the batch it was computed in, so a hit equals a fresh computation bit for bit.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[str | None, Hashable], tuple[Tensor, int]] = OrderedDict()
        self.num_bytes = 0
        self.num_hits = 0
        self.num_misses = 0

    def get(self, salt: str | None, key: Hashable) -> Tensor | None:
        """A copy of the result, or None."""
        with self._lock:
            entry = self._entries.get((salt, key))
            if entry is None:
                self.num_misses += 1
                return None
            self._entries.move_to_end((salt, key))
            self.num_hits += 1
        return entry[0].clone()

    def put(self, salt: str | None, key: Hashable, num_tokens: int, data: Tensor) -> None:
        """Keep a copy of a result whose key holds `num_tokens` token ids."""
        size = ENTRY_BYTES + BYTES_PER_TOKEN * num_tokens + data.nbytes
        if size > self._max_bytes:
            return
        with self._lock:
            old = self._entries.pop((salt, key), None)
            self.num_bytes += size - (0 if old is None else old[1])
            self._entries[salt, key] = (data.clone(), size)
            while self.num_bytes > self._max_bytes:
                _, (_, freed) = self._entries.popitem(last=False)
                self.num_bytes -= freed
