"""The memory a model will take, by what it is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assay.memory.process import Base


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes by what they are for, and the settings they follow from.

    weights: by part, as the kernels of the instruction set in use want them. arena_tokens: what one batch may hold,
    which is never less than the longest input. scratch_bytes: of all threads. guard_bytes: what the first start adds
    while int8 is compared with bfloat16. arena_bytes and scratch_bytes are None where transformers runs the model and
    allocates as it goes. largest_batch_tokens: the largest max_batch_tokens within limit_bytes, None where none is or
    no limit was given.
    """

    architecture: str
    isa: str
    num_threads: int
    dtype: str
    dtype_reason: str
    arithmetic: str
    quantization: str | None
    max_batch_tokens: int
    max_batch_size: int
    max_model_len: int
    arena_tokens: int | None
    weights: dict[str, int]
    arena_bytes: int | None
    scratch_bytes: int | None
    base: Base
    guard_bytes: int = 0
    limit_bytes: int | None = None
    largest_batch_tokens: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def weights_bytes(self) -> int:
        return sum(self.weights.values())

    @property
    def peak_bytes(self) -> int | None:
        """The most that is resident at any time: after the largest batch, or while the tokenizer is made."""
        if self.arena_bytes is None or self.scratch_bytes is None:
            return None
        around = self.base.resident_bytes + self.arena_bytes + self.scratch_bytes + self.guard_bytes
        return self.weights_bytes + max(around, self.base.peak_bytes)

    @property
    def fits(self) -> bool | None:
        """Whether the peak stays within the limit; None where either is unknown."""
        peak = self.peak_bytes
        return None if peak is None or self.limit_bytes is None else peak <= self.limit_bytes
