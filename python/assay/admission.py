"""How much work is in the engine, and whether more is let in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from assay.errors import DeadlineExceededError, EngineDrainingError, OverloadedError

if TYPE_CHECKING:
    from assay.throughput import Throughput

DRAIN_RETRY_S = 1.0
"""What a refused caller is told while the engine finishes; its next attempt should reach another one."""
UNKNOWN_RATE_RETRY_S = 1.0
"""What a refused caller is told before any batch has been measured."""
LEAST_RETRY_S = 0.05

Fail: TypeAlias = Callable[[Exception], None]


@dataclass(slots=True, eq=False)
class Admitted:
    """One job in the engine. num_tokens: what it still has to compute, an estimate until it is tokenised."""

    num_tokens: float
    num_items: int
    deadline: float | None
    since: float = field(default_factory=time.monotonic)
    counted: float = 0.0


class Admission:
    """Counts the tokens that wait and refuses jobs above a limit. Thread safe.

    A job counts for at most half of the limit: waiting jobs share every batch, so one that is long does not hold up
    the others, and must not keep them out.
    """

    def __init__(self, max_queued_tokens: int | None, throughput: Throughput) -> None:
        self._limit = max_queued_tokens
        self._throughput = throughput
        self._changed = threading.Condition()  # re-entrant: garbage collection may end a job inside
        self._jobs: dict[Admitted, Fail] = {}  # in order of arrival, with what ends them
        self._num_tokens = 0.0
        self._num_items = 0
        self._counted = 0.0
        self._is_draining = False
        self._first_deadline = float("inf")  # no later than the earliest deadline of all jobs

    @property
    def num_tokens(self) -> int:
        """Tokens that wait or run."""
        return max(0, round(self._num_tokens))

    @property
    def num_items(self) -> int:
        """Items that wait or run."""
        return self._num_items

    @property
    def num_jobs(self) -> int:
        """Jobs in the engine."""
        return len(self._jobs)

    @property
    def is_draining(self) -> bool:
        """Whether new work is refused for good."""
        return self._is_draining

    def oldest_age_s(self) -> float:
        """How long the oldest job has been in the engine; 0 where there is none."""
        with self._changed:
            oldest = next(iter(self._jobs), None)
        return 0.0 if oldest is None else time.monotonic() - oldest.since

    def enter(self, job: Admitted, fail: Fail) -> None:
        """Let a job in; raises OverloadedError, or EngineDrainingError after `refuse_all`.

        fail: ends the job. It is let go when the job leaves, so that what it belongs to may refer to the job.
        """
        with self._changed:
            if self._is_draining:
                raise EngineDrainingError("the engine is shutting down and takes no new work", DRAIN_RETRY_S)
            counted = self._counts(job.num_tokens)
            if self._limit is not None and self._jobs and self._counted + counted > self._limit:
                raise OverloadedError(
                    f"{self.num_tokens} tokens are waiting (max_queued_tokens={self._limit}): try again later",
                    self._retry_after_s(self._counted + counted - self._limit),
                )
            job.counted = counted
            self._jobs[job] = fail
            self._num_tokens += job.num_tokens
            self._num_items += job.num_items
            self._counted += counted
            if job.deadline is not None:
                self._first_deadline = min(self._first_deadline, job.deadline)

    def progress(self, job: Admitted, num_tokens: float, num_items: int = 0) -> None:
        """Add to (or take from) what a job still has to compute; nothing happens after `leave`."""
        with self._changed:
            if job not in self._jobs:
                return
            job.num_tokens += num_tokens
            job.num_items += num_items
            counted = self._counts(max(0.0, job.num_tokens))
            self._num_tokens += num_tokens
            self._num_items += num_items
            self._counted += counted - job.counted
            job.counted = counted

    def leave(self, job: Admitted) -> None:
        """A job has ended; idempotent."""
        with self._changed:
            if job not in self._jobs:
                return
            del self._jobs[job]
            self._num_tokens -= job.num_tokens
            self._num_items -= job.num_items
            self._counted -= job.counted
            if not self._jobs:
                self._num_tokens = self._counted = 0.0  # rounding must not add up
                self._changed.notify_all()

    def expire_overdue(self) -> None:
        """End the jobs whose deadline has passed; costs nothing while there can be none."""
        now = time.monotonic()
        if now < self._first_deadline:
            return
        with self._changed:
            deadlines = [(job, fail, job.deadline) for job, fail in self._jobs.items() if job.deadline is not None]
            later = (deadline for _, _, deadline in deadlines if deadline > now)
            self._first_deadline = min(later, default=float("inf"))
        for job, fail, deadline in deadlines:
            if deadline <= now:
                fail(DeadlineExceededError(f"the deadline passed with {job.num_items} items not computed"))

    def fail_all(self, error: Exception) -> None:
        """End every job."""
        with self._changed:
            fails = list(self._jobs.values())
        for fail in fails:
            fail(error)

    def refuse_all(self) -> None:
        """Let no more jobs in."""
        with self._changed:
            self._is_draining = True

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Whether the last job ended within the time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs, timeout_s)

    def _counts(self, num_tokens: float) -> float:
        return num_tokens if self._limit is None else min(num_tokens, self._limit / 2)

    def _retry_after_s(self, excess: float) -> float:
        rate = self._throughput.tokens_per_s
        if rate <= 0 or self._limit is None:
            return UNKNOWN_RATE_RETRY_S
        remaining = [max(0.0, job.num_tokens) for job in self._jobs]
        until_room = tokens_until_room(remaining, self._limit / 2, excess)
        # Tokens count as computed when their batch ends: room comes up to one batch later, or with the last of all.
        tokens = min(until_room + self._throughput.max_batch_tokens, sum(remaining))
        return max(LEAST_RETRY_S, tokens / rate)


def tokens_until_room(remaining: list[float], most_counted: float, excess: float) -> float:
    """Tokens to compute until the jobs count for `excess` less than now.

    remaining: what each job still has to compute. It counts for most_counted at most, so a long job starts to count
    for less only when that is all it has left. The jobs share every batch equally.
    """
    turns = [(max(0.0, tokens - most_counted), 1) for tokens in remaining] + [(tokens, -1) for tokens in remaining]
    shared = computed = 0.0  # tokens of each job that is not done, and of all jobs
    num_falling, num_left = 0, len(remaining)
    for turn, step in sorted(turns):
        if num_falling * (turn - shared) >= excess:
            break
        excess -= num_falling * (turn - shared)
        computed += num_left * (turn - shared)
        shared = turn
        num_falling += step
        num_left -= step < 0
    return computed + (num_left * excess / num_falling if num_falling else 0.0)
