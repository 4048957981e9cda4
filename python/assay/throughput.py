"""What the engine has computed, and how fast of late: the numbers behind statistics and Retry-After."""

from __future__ import annotations

import threading

MEMORY_S = 5.0
"""Seconds of computing over which rates are averaged (older batches fade out)."""


class Throughput:
    """Totals, and averages that fade; read from any thread."""

    def __init__(self, max_batch_tokens: int) -> None:
        self.max_batch_tokens = max_batch_tokens
        self._lock = threading.Lock()
        self.num_batches = 0
        self.num_items = 0
        self.num_tokens = 0
        self._recent_s = 0.0
        self._recent_tokens = 0.0
        self._recent_batches = 0.0

    def add(self, num_tokens: int, num_items: int, compute_s: float) -> None:
        """One more batch."""
        with self._lock:
            self.num_batches += 1
            self.num_items += num_items
            self.num_tokens += num_tokens
            kept = max(0.0, 1.0 - compute_s / MEMORY_S)
            self._recent_s = self._recent_s * kept + compute_s
            self._recent_tokens = self._recent_tokens * kept + num_tokens
            self._recent_batches = self._recent_batches * kept + 1

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second of computing; 0 before the first batch."""
        with self._lock:
            return self._recent_tokens / self._recent_s if self._recent_s > 0 else 0.0

    @property
    def batch_fill(self) -> float:
        """Tokens per batch over the token budget, 0 to 1 (above 1 where one sequence exceeds the budget)."""
        with self._lock:
            budget = self._recent_batches * self.max_batch_tokens
            return self._recent_tokens / budget if budget > 0 else 0.0
