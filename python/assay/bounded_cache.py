"""Values by key in a bounded number of bytes; what was not asked for longest goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class BoundedCache(Generic[Key, Value]):
    """Least recently used values in at most `max_bytes`. Thread safe."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.num_hits = 0
        self.num_misses = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        """The value, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self.num_misses += 1
                return None
            self._entries.move_to_end(key)
            self.num_hits += 1
        return entry[0]

    def put(self, key: Key, value: Value, num_bytes: int) -> None:
        """Keep a value that counts for so many bytes; one that is larger than the whole cache is not kept."""
        if num_bytes > self.max_bytes:
            return
        with self._lock:
            old = self._entries.pop(key, None)
            self.num_bytes += num_bytes - (0 if old is None else old[1])
            self._entries[key] = (value, num_bytes)
            while self.num_bytes > self.max_bytes:
                _, (_, freed) = self._entries.popitem(last=False)
                self.num_bytes -= freed

    def clear(self) -> None:
        """Forget all values."""
        with self._lock:
            self._entries.clear()
            self.num_bytes = 0
