"""A model and a tokenizer small enough to read, for tests of the engine that need no kernels."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import torch

from assay.batch import RaggedBatch, Sequence
from assay.content import Content

POISON_ID = 666
"""A token that makes its sequence's result NaN."""
BROKEN_ID = 999
"""A token that makes the model raise."""


class FakeModel:
    """logits = (sum of ids + 1000 * type-1 tokens, length); sigmoid of /1e4 where the activation is on."""

    position_offset = 0
    number = 1

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.batch_sizes: list[int] = []
        self.batch_tokens: list[int] = []
        self.batches: list[list[list[int]]] = []
        self.threads: set[int] = set()
        self.gate: threading.Event | None = None
        self.started = threading.Event()

    def run(
        self, batch: RaggedBatch, use_activation: list[bool], dimensions: list[int | None] | None = None
    ) -> list[torch.Tensor]:
        self.started.set()
        if self.gate is not None:
            assert self.gate.wait(30)
        if self.delay_s:
            time.sleep(self.delay_s)
        self.threads.add(threading.get_ident())
        self.batch_sizes.append(batch.num_seqs)
        self.batch_tokens.append(batch.num_tokens)
        bounds = batch.cu_seqlens.tolist()
        self.batches.append([batch.input_ids[start:stop].tolist() for start, stop in pairwise(bounds)])
        if bool((batch.input_ids == BROKEN_ID).any()):
            raise RuntimeError("broken on purpose")
        results = []
        for index, (start, stop) in enumerate(pairwise(bounds)):
            ids = batch.input_ids[start:stop]
            total = float(ids.sum())
            if batch.token_type_ids is not None:
                total += 1000.0 * float(batch.token_type_ids[start:stop].sum())
            logits = torch.tensor([total, float(stop - start)])
            if bool((ids == POISON_ID).any()):
                logits[0] = float("nan")
            results.append(torch.sigmoid(logits / 1e4) if use_activation[index] else logits)
        return results


class FakeTokenizer:
    """One token per character (its code point modulo 600); [CLS] is 1 and [SEP] is 2."""

    pad_token_id = 0
    max_token_id = 601
    max_chars_per_token = 1
    do_lower_case = False

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.calls: list[int] = []
        self.first_texts: list[object] = []

    def encode_batch(
        self,
        texts: list[str | tuple[str, str]],
        *,
        add_special_tokens: bool = True,
        max_length: int | None = None,
        truncation_side: str | None = None,
        truncate_to: int | None = None,
        cut_side: str | None = None,
        only_second: bool = False,
        first_texts: dict[str, Content] | None = None,
    ) -> list[Sequence]:
        if self.delay_s:
            time.sleep(self.delay_s)
        self.calls.append(len(texts))
        self.first_texts.append(first_texts)
        sequences = []
        for text in texts:
            if isinstance(text, str):
                ids, types = self._wrap(text, add_special_tokens), None
            else:
                first, second = self._wrap(text[0], add_special_tokens), [*_ids(text[1]), 2]
                ids, types = first + second, [0] * len(first) + [1] * len(second)
            if truncate_to is not None:
                side = slice(-truncate_to, None) if truncation_side == "left" else slice(truncate_to)
                ids, types = ids[side], None if types is None else types[side]
            sequences.append(Sequence(ids, types))
        return sequences

    def _wrap(self, text: str, add_special_tokens: bool) -> list[int]:
        return [1, *_ids(text), 2] if add_special_tokens else _ids(text)


def _ids(text: str) -> list[int]:
    return [2 + ord(char) % 600 for char in text]
