"""Which waiting sequences go into the next model call: pure bookkeeping, no threads."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Scheduler(Generic[T]):
    """First in, first out under a token budget, with a bounded look past items that do not fit.

    The oldest waiting item is always in the next batch, even alone and over budget, so nothing starves. Once an item
    does not fit the rest of the budget, up to `lookahead` items behind it may fill the gap; they keep their order.
    """

    def __init__(self, max_batch_tokens: int, max_batch_size: int, lookahead: int = 64) -> None:
        self._max_tokens = max_batch_tokens
        self._max_size = max_batch_size
        self._lookahead = lookahead
        self._waiting: deque[tuple[T, int]] = deque()
        self._num_tokens = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def num_tokens(self) -> int:
        """Tokens waiting."""
        return self._num_tokens

    def add(self, item: T, num_tokens: int) -> None:
        """Append one item of `num_tokens` tokens."""
        self._waiting.append((item, num_tokens))
        self._num_tokens += num_tokens

    def next_batch(self) -> list[T]:
        """Remove and return the next batch; empty only when nothing waits."""
        batch: list[T] = []
        skipped: list[tuple[T, int]] = []
        budget = self._max_tokens
        while self._waiting and len(batch) < self._max_size and len(skipped) <= self._lookahead:
            item, num_tokens = entry = self._waiting.popleft()
            if num_tokens <= budget or not batch:
                batch.append(item)
                budget -= num_tokens
                self._num_tokens -= num_tokens
            else:
                skipped.append(entry)
            if budget <= 0:
                break
        self._waiting.extendleft(reversed(skipped))
        return batch

    def drain(self) -> list[T]:
        """Remove and return everything that waits."""
        items = [item for item, _ in self._waiting]
        self._waiting.clear()
        self._num_tokens = 0
        return items
