"""Which waiting sequences go into the next model call: pure bookkeeping, no threads."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Lane(Generic[T]):
    """The waiting items of one job, in order, with their token counts."""

    priority: int
    arrival: int
    served: int = 0
    """Virtual time: tokens this lane has had, counted from the least-served lane at the time it came."""
    items: deque[tuple[T, int]] = field(default_factory=deque)
    is_listed: bool = False


class Scheduler(Generic[T]):
    """Fills batches under a token budget from any number of lanes, with a bounded look past items that do not fit.

    Policy "fcfs": every item comes from the lane that has had the fewest tokens, so that lanes share each batch evenly
    whatever their length; equals go by arrival. Policy "priority": the lowest priority, then the oldest lane, first.
    Inside a lane it is first in, first out. The first choice is always in the next batch, even alone and over budget,
    so nothing starves. Once an item does not fit the rest of the budget, up to `lookahead` items behind it may fill
    the gap; they keep their order.
    """

    def __init__(self, max_batch_tokens: int, max_batch_size: int, lookahead: int = 64, policy: str = "fcfs") -> None:
        self._max_tokens = max_batch_tokens
        self._max_size = max_batch_size
        self._lookahead = lookahead
        self._is_fair = policy == "fcfs"
        self._order: list[tuple[int, int, Lane[T]]] = []  # heap of (rank, arrival, lane): one entry per listed lane
        self._virtual_time = 0
        self._num_lanes = 0
        self._num_items = 0
        self._num_tokens = 0
        self._default_lane = self.new_lane()

    def __len__(self) -> int:
        return self._num_items

    @property
    def num_tokens(self) -> int:
        """Tokens waiting."""
        return self._num_tokens

    def new_lane(self, priority: int = 0) -> Lane[T]:
        """A lane behind all others of its priority; it costs nothing while it is empty."""
        self._num_lanes += 1
        return Lane(priority, self._num_lanes)

    def add(self, item: T, num_tokens: int, lane: Lane[T] | None = None) -> None:
        """Append one item of `num_tokens` tokens to a lane."""
        lane = lane or self._default_lane
        lane.items.append((item, num_tokens))
        self._num_items += 1
        self._num_tokens += num_tokens
        if not lane.is_listed:
            lane.served = max(lane.served, self._virtual_time)
            self._list(lane)

    def next_batch(self) -> list[T]:
        """Remove and return the next batch; empty only when nothing waits."""
        batch: list[T] = []
        skipped: list[tuple[Lane[T], tuple[T, int]]] = []
        budget = self._max_tokens
        while self._order and len(batch) < self._max_size and len(skipped) <= self._lookahead:
            _, _, lane = self._order[0]
            if not lane.items:  # cleared, or nothing behind what was skipped
                heapq.heappop(self._order)
                lane.is_listed = False
                continue
            item, num_tokens = entry = lane.items.popleft()
            if num_tokens > budget and batch:
                skipped.append((lane, entry))
                continue
            batch.append(item)
            budget -= num_tokens
            self._num_items -= 1
            self._num_tokens -= num_tokens
            self._virtual_time = max(self._virtual_time, lane.served)
            lane.served += num_tokens
            if self._is_fair:
                heapq.heapreplace(self._order, (lane.served, lane.arrival, lane))
            if budget <= 0:
                break
        for lane, entry in reversed(skipped):
            lane.items.appendleft(entry)
            if not lane.is_listed:
                self._list(lane)
        return batch

    def clear(self, lane: Lane[T]) -> list[T]:
        """Remove and return what waits in one lane."""
        items = [item for item, _ in lane.items]
        self._num_items -= len(items)
        self._num_tokens -= sum(num_tokens for _, num_tokens in lane.items)
        lane.items.clear()
        return items

    def drain(self) -> list[T]:
        """Remove and return everything that waits, lane by lane."""
        lanes = sorted((lane for _, _, lane in self._order), key=lambda lane: lane.arrival)
        items = [item for lane in lanes for item in self.clear(lane)]
        self._order.clear()
        for lane in lanes:
            lane.is_listed = False
        return items

    def _list(self, lane: Lane[T]) -> None:
        rank = lane.served if self._is_fair else lane.priority
        heapq.heappush(self._order, (rank, lane.arrival, lane))
        lane.is_listed = True
