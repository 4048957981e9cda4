"""Tokenizing, sorting by length and padding for the engines that bring no pipeline of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contender import Clock

MAX_PAIR_TOKENS = 512


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Inputs [num_rows, longest] int64 by name, and which documents the rows are."""

    inputs: dict[str, npt.NDArray[np.int64]]
    rows: list[int]


class PaddedTokenizer:
    """Pairs -> batches of similar length, each padded to its own longest pair, longest batch first."""

    def __init__(self, checkpoint: Path, clock: Clock) -> None:
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
        self.clock, self.last_s = clock, 0.0

    def batches(self, query: str, documents: list[str], batch_size: int) -> list[PaddedBatch]:
        """All pairs in batches of batch_size; self.last_s is the time it took."""
        start = self.clock()
        encoded = self.tokenizer([query] * len(documents), documents, truncation=True, max_length=MAX_PAIR_TOKENS)
        seqlens = [len(ids) for ids in encoded["input_ids"]]
        order = sorted(range(len(documents)), key=lambda i: -seqlens[i])
        chunks = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        batches = [PaddedBatch(self.pad(encoded, rows, seqlens[rows[0]]), rows) for rows in chunks]
        self.last_s = self.clock() - start
        return batches

    def pad(self, encoded: Any, rows: list[int], longest: int) -> dict[str, npt.NDArray[np.int64]]:
        """The chosen rows as arrays [len(rows), longest]."""
        arrays = {}
        for name in self.tokenizer.model_input_names:
            fill = self.tokenizer.pad_token_id if name == "input_ids" else 0
            arrays[name] = np.full((len(rows), longest), fill, dtype=np.int64)
            for row, source in enumerate(rows):
                ids = encoded[name][source]
                arrays[name][row, : len(ids)] = ids
        return arrays
