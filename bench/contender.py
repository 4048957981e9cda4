"""What a contender is: something that turns one query and documents into logits, and how it was set up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Clock = Callable[[], float]


class Unavailable(Exception):
    """This contender cannot run here; the message says why."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What every loader gets; cache is a folder for files derived from the checkpoint, clock returns seconds."""

    checkpoint: Path
    cache: Path
    num_threads: int
    batch_sizes: tuple[int, ...]
    clock: Clock


class Contender(Protocol):
    """One library in one setting; tokenize_s is the tokenization part of the last score call, where it can be told."""

    settings: str
    tokenize_s: float | None

    def score(self, query: str, documents: list[str]) -> FloatArray:
        """Raw logits [num_documents], in the order of documents."""
        ...


# A loader returns one object per setting worth trying; the driver keeps the fastest for each workload.
Loader = Callable[[Setup], list[Contender]]
