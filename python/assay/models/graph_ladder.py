"""Which sizes of batches are captured as CUDA graphs: a ladder of token counts, and what it may cost."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

FIRST_TOKENS: Final = 16
STEPS_PER_OCTAVE: Final = 8
"""A batch is padded by at most an eighth above 128 tokens."""
MAX_TOKENS: Final = 8192
"""Above this the launches of a layer take less time than its products: nothing is gained by a graph."""
MAX_GRAPH_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Rung:
    """The buffers of one graph: batches of at most so many tokens and sequences."""

    num_tokens: int
    num_seqs: int


def make_ladder(max_tokens: int, max_seqs: int) -> tuple[Rung, ...]:
    """Rungs in rising order, for batches of at most max_tokens tokens and max_seqs sequences."""
    top = min(max_tokens, MAX_TOKENS)
    rungs = []
    num_tokens = FIRST_TOKENS
    while num_tokens < top:
        rungs.append(num_tokens)
        num_tokens += max(FIRST_TOKENS, (1 << (num_tokens.bit_length() - 1)) // STEPS_PER_OCTAVE)
    rungs.append(top)
    return tuple(Rung(size, min(size, max_seqs)) for size in rungs)


def find_rung(ladder: tuple[Rung, ...], num_tokens: int, num_seqs: int) -> Rung | None:
    """The lowest rung a batch fits; None where it is larger than all of them."""
    for rung in ladder[bisect_left(ladder, num_tokens, key=lambda rung: rung.num_tokens) :]:
        if num_seqs <= rung.num_seqs:
            return rung
    return None


@dataclass(slots=True)
class GraphBudget:
    """Keeps the memory of graphs within a limit: capturing goes from the lowest rung up until it would be passed."""

    limit_bytes: int
    used_bytes: int = 0
    _dearest: int = 0

    def note(self, used_bytes: int) -> None:
        """So much memory is in use by all graphs captured so far."""
        self._dearest = max(self._dearest, used_bytes - self.used_bytes)
        self.used_bytes = used_bytes

    @property
    def has_room(self) -> bool:
        """Whether another graph as large as the largest one so far fits."""
        return self.used_bytes + self._dearest <= self.limit_bytes
