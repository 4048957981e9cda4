"""Results of inputs that were seen before, exact to the bit; off unless memory is given to it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from assay.bounded_cache import BoundedCache

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
        self._results: BoundedCache[tuple[str | None, Hashable], Tensor] = BoundedCache(max_bytes)

    @property
    def num_bytes(self) -> int:
        return self._results.num_bytes

    @property
    def num_hits(self) -> int:
        return self._results.num_hits

    @property
    def num_misses(self) -> int:
        return self._results.num_misses

    def get(self, salt: str | None, key: Hashable) -> Tensor | None:
        """A copy of the result, or None."""
        data = self._results.get((salt, key))
        return None if data is None else data.clone()

    def put(self, salt: str | None, key: Hashable, num_tokens: int, data: Tensor) -> None:
        """Keep a copy of a result whose key holds `num_tokens` token ids."""
        size = ENTRY_BYTES + BYTES_PER_TOKEN * num_tokens + data.nbytes
        if size <= self._results.max_bytes:  # else it would be copied for nothing
            self._results.put((salt, key), data.clone(), size)
