"""The result of an input is the same bits alone, in any batch and at any thread count."""

from __future__ import annotations

import random

import pytest
import torch

import cpu_isas
from assay import ops
from assay.batch import pack
from assay.config import PoolerConfig
from parity import checkpoint, load, tokenizer
from tiny_models import all_inputs

NUM_BATCHES = {"scalar": 10, "amx_emulated": 10, "emulated": 20}
CASES = [
    ("Bert", "ForSequenceClassification", PoolerConfig()),
    ("Bert", "ForSequenceClassification", PoolerConfig(pooling_type="LAST")),
    ("Roberta", "ForSequenceClassification", PoolerConfig(pooling_type="MEAN")),
    ("Electra", "ForTokenClassification", PoolerConfig()),
    ("DistilBert", "ForSequenceClassification", PoolerConfig(task="token_classify")),
    ("Bert", "Model", PoolerConfig(pooling_type="MEAN")),
]
IDS = [f"{name}{head}-{config.seq_pooling_type or config.task or 'default'}" for name, head, config in CASES]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "head", "config"), CASES, ids=IDS)
def test_results_are_bitwise_equal_in_any_batch(name, head, config, dtype, isa, restore_threads, tmp_path_factory):
    folder = checkpoint(tmp_path_factory, name, head)
    model = load(folder, dtype=dtype, config=config)
    sequences = tokenizer(folder).encode_batch(all_inputs()[::5], truncate_to=model.max_model_len)
    rng = random.Random(1)
    flags = [rng.random() < 0.5 for _ in sequences]
    ops.set_num_threads(1)
    alone = [_run(model, [s], [flag])[0] for s, flag in zip(sequences, flags, strict=True)]
    for batch_idx in range(NUM_BATCHES.get(cpu_isas.kind(isa), 50)):
        ops.set_num_threads(1 + batch_idx % 2)
        chosen = rng.sample(range(len(sequences)), rng.choice((2, 3, 7, 16)))
        results = _run(model, [sequences[i] for i in chosen], [flags[i] for i in chosen])
        for i, result in zip(chosen, results, strict=True):
            assert result.shape == alone[i].shape
            assert torch.equal(result, alone[i]), f"input {i} in a batch of {len(chosen)}, {ops.num_threads()} threads"


def _run(model, sequences, flags):
    return [result.clone() for result in model.run(pack(sequences, model.position_offset), flags)]
