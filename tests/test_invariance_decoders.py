"""A decoder's result for an input is the same bits alone, in any batch and at any thread count."""

from __future__ import annotations

import random

import pytest
import torch

import cpu_isas
from assay import ops
from assay.batch import Sequence, pack
from assay.config import PoolerConfig
from parity import load
from tiny_decoders import answers

NUM_BATCHES = {"scalar": 4, "amx_emulated": 4, "emulated": 6}
CASES = [
    ("llama-longrope", None),
    ("llama-bidirectional-avg", None),
    ("qwen2", None),
    ("qwen3", "MEAN"),
    ("gemma2", None),
    ("gemma3", "CLS"),
    ("gpt2", None),
    ("gpt2-token", None),
    ("gpt2-padded", None),
    ("modernbert", None),
    ("gte-partial", None),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "pooling"), CASES, ids=[name for name, _ in CASES])
def test_results_are_bitwise_equal_in_any_batch(name, pooling, dtype, isa, restore_threads, tmp_path_factory):
    expected = answers(tmp_path_factory, name)
    model = load(expected.folder, dtype=dtype, config=PoolerConfig(pooling_type=pooling))
    sequences = [Sequence(ids) for ids in expected.ids]
    rng = random.Random(1)
    ops.set_num_threads(1)
    alone = [_run(model, [sequence])[0] for sequence in sequences]
    for batch_idx in range(NUM_BATCHES.get(cpu_isas.kind(isa), 12)):
        ops.set_num_threads(1 + batch_idx % 2)
        chosen = rng.sample(range(len(sequences)), rng.choice((2, 3, 7, 16)))
        for idx, result in zip(chosen, _run(model, [sequences[idx] for idx in chosen]), strict=True):
            assert torch.equal(result, alone[idx]), f"input {idx} among {len(chosen)}, {ops.num_threads()} threads"


def _run(model, sequences):
    return [result.clone() for result in model.run(pack(sequences), [False] * len(sequences))]
