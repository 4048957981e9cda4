"""Rotary tables against transformers' own, for every kind of scaling and at far positions."""

from __future__ import annotations

import math

import pytest
import torch

import reference_gte
from assay.hf_config import HFConfig
from assay.models.rope import Rope, read_rope

NUM_POSITIONS, HEAD_DIM = 2048, 16
KINDS = {
    "default": {"rope_type": "default", "rope_theta": 1e6},
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    },
    "yarn": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 256},
    "yarn-scaled": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 8.0,
        "original_max_position_embeddings": 256,
        "attention_factor": 1.25,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "truncate": False,
    },
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 8.0,
        "short_factor": [1.0 + 0.01 * i for i in range(8)],
        "long_factor": [2.0 + i for i in range(8)],
        "original_max_position_embeddings": 256,
    },
}


@pytest.mark.parametrize("name", KINDS)
def test_tables_are_those_of_transformers_bit_for_bit(name):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    sizes = {"hidden_size": 2 * HEAD_DIM, "num_attention_heads": 2, "max_position_embeddings": NUM_POSITIONS}
    theirs = LlamaRotaryEmbedding(LlamaConfig(**sizes, rope_parameters=dict(KINDS[name])))
    rope = read_rope(HFConfig({**sizes, "rope_parameters": KINDS[name]}), HEAD_DIM, NUM_POSITIONS)
    cos, sin = rope.tables(NUM_POSITIONS)
    lengths = (200, NUM_POSITIONS) if name == "longrope" else (NUM_POSITIONS,)
    for part, length in enumerate(lengths):
        want_cos, want_sin = theirs(torch.zeros(1), torch.arange(length)[None])
        start = part * NUM_POSITIONS
        assert torch.equal(cos[start : start + length], want_cos[0, :, : HEAD_DIM // 2])
        assert torch.equal(sin[start : start + length], want_sin[0, :, : HEAD_DIM // 2])
    assert cos.shape == (len(lengths) * NUM_POSITIONS, HEAD_DIM // 2)


@pytest.mark.parametrize("mixed_b", [None, 0.625])
def test_ntk_frequencies_match_their_definition(mixed_b):
    scaling = {"type": "ntk", "factor": 8.0, **({} if mixed_b is None else {"mixed_b": mixed_b})}
    config = {"rope_theta": 2e4, "rope_scaling": scaling, "hidden_size": 64, "num_attention_heads": 4}
    cos, sin = read_rope(HFConfig(config), HEAD_DIM, NUM_POSITIONS).tables(2)
    angles = torch.atan2(sin[1].double(), cos[1].double())
    assert torch.allclose(angles, reference_gte.frequencies(config), rtol=1e-6, atol=0)


def test_older_files_name_the_base_and_the_scaling_apart():
    new = HFConfig({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e4}})
    old = HFConfig({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 5e4})
    for cos, want in zip(read_rope(old, HEAD_DIM, 64).tables(64), read_rope(new, HEAD_DIM, 64).tables(64), strict=True):
        assert torch.equal(cos, want)
    assert read_rope(HFConfig({}), HEAD_DIM, 64) == Rope("default", HEAD_DIM, 64, {"rope_theta": 10000.0})


def test_the_original_length_is_the_models_where_none_is_named():
    config = HFConfig({"rope_scaling": {"type": "yarn", "factor": 4.0}, "rope_theta": 1e4})
    assert read_rope(config, HEAD_DIM, 512).parameters["original_max_position_embeddings"] == 512
    config.update({"original_max_position_embeddings": 128})
    assert read_rope(config, HEAD_DIM, 512).parameters["original_max_position_embeddings"] == 128
    cos = read_rope(config, HEAD_DIM, 512).tables(1)[0]
    assert cos[0].tolist() == pytest.approx([0.1 * math.log(4.0) + 1.0] * (HEAD_DIM // 2))
