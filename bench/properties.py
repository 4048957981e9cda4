"""Properties that throughput should have, as ratios with their spread over the rounds; nothing fails on them."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

BATCH_BUDGET, LONG_TAIL, UNIFORM = "batch budget, long tail", "mix: long tail", "mix: uniform"
"""Series of rows that properties are read from."""
LEAST_LONG_TAIL = 0.9
"""Of the tokens per second on uniform lengths, at the same number of texts and tokens."""

Row = dict[str, Any]
"""A measured setting: "series", "x", "num_tokens", and "samples" with the seconds of each round."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Tokens per second of one setting over those of another, round by round. wanted: the least it should be."""

    name: str
    wanted: float
    per_round: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.per_round)

    @property
    def verdict(self) -> str:
        """Whether it is as wanted, or short of it in every round, or in some."""
        if self.median >= self.wanted:
            return "holds"
        return "does not hold" if max(self.per_round) < self.wanted else "within the spread"

    def __str__(self) -> str:
        spread = f"{min(self.per_round):.3f}..{max(self.per_round):.3f}"
        return f"{self.name}: {self.median:.3f} ({spread}), wanted >= {self.wanted:.2f}: {self.verdict}"

    def as_json(self) -> dict[str, Any]:
        """Everything above as plain data."""
        return asdict(self) | {"median": self.median, "verdict": self.verdict}


def ratios(rows: list[Row]) -> list[Ratio]:
    """The long tail against uniform lengths, and each batch budget against the fastest smaller one."""
    (long_tail,) = (row for row in rows if row["series"] == LONG_TAIL)
    (uniform,) = (row for row in rows if row["series"] == UNIFORM)
    found = [Ratio("long-tail over uniform lengths", LEAST_LONG_TAIL, _per_round(long_tail, uniform))]
    budgets = sorted((row for row in rows if row["series"] == BATCH_BUDGET), key=lambda row: int(row["x"]))
    for count, row in enumerate(budgets[1:], start=1):
        best = max(budgets[:count], key=lambda smaller: statistics.median(_rates(smaller)))
        name = f"{row['x']} tokens per batch over {best['x']}, the fastest smaller budget"
        found.append(Ratio(name, 1.0, _per_round(row, best)))
    return found


def _rates(row: Row) -> list[float]:
    return [row["num_tokens"] / sample["seconds"] for sample in row["samples"]]


def _per_round(row: Row, other: Row) -> list[float]:
    return [ours / theirs for ours, theirs in zip(_rates(row), _rates(other), strict=True)]
