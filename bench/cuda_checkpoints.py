"""Checkpoints of known shapes with random bfloat16 weights, token ids of mixed lengths, and their bare products."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints import SEED
from workload import document_lengths

QUERY_TOKENS = 16
"""What the query and the special tokens add to every document of `workload.document_lengths`."""
FIRST_ID = 10
_QWEN = {"vocab_size": 151_936, "num_hidden_layers": 28, "pad_token_id": 0, "max_position_embeddings": 1024}


@dataclass(frozen=True, slots=True)
class Shape:
    """A sequence classifier of one label: transformers' class prefix, its config, and how many pairs are scored."""

    class_name: str
    num_pairs: int
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def is_causal(self) -> bool:
        return self.class_name.startswith("Qwen")


SHAPES = {
    "minilm-l6": Shape(
        "Bert",
        4096,
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    ),
    "xlm-r-large": Shape(
        "XLMRoberta",
        1024,
        {
            "vocab_size": 250_002,
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
        },
    ),
    "qwen3-0.6b": Shape(
        "Qwen3",
        1024,
        {
            **_QWEN,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
        },
    ),
    "qwen2.5-1.5b": Shape(
        "Qwen2",
        512,
        {
            **_QWEN,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
        },
    ),
    "tiny": Shape(
        "Qwen3",
        12,
        {
            **_QWEN,
            "vocab_size": 200,
            "num_hidden_layers": 2,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
        },
    ),
}
"""tiny: for a look at whether everything runs."""


def folder_of(name: str, cache: Path, device: str) -> Path:
    """The checkpoint under cache, built on first use; weights are drawn on the device."""
    import torch
    import transformers

    folder, shape = cache / name, SHAPES[name]
    if (folder / "model.safetensors").exists():
        return folder
    config = getattr(transformers, f"{shape.class_name}Config")(**shape.config, num_labels=1)
    torch.manual_seed(SEED)
    with torch.device(device):
        model = getattr(transformers, f"{shape.class_name}ForSequenceClassification")(config)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="16GB")
    return folder


def token_ids(name: str) -> list[list[int]]:
    """One row of ids a pair: random, none of them special, of the lengths of the reranking benchmark."""
    shape, rng = SHAPES[name], np.random.default_rng(SEED)
    vocab_size = shape.config.get("vocab_size", 30_522)
    lengths = [QUERY_TOKENS + length for length in document_lengths(shape.num_pairs, rng)]
    return [rng.integers(FIRST_ID, vocab_size, size=length).tolist() for length in lengths]


def products(name: str) -> list[tuple[int, int]]:
    """(out_features, in_features) of the matrix products of one layer."""
    config = SHAPES[name].config
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim", hidden // heads)
    q_size, kv_size = heads * head_dim, config.get("num_key_value_heads", heads) * head_dim
    up = 2 * inner if SHAPES[name].is_causal else inner
    return [(q_size + 2 * kv_size, hidden), (hidden, q_size), (up, hidden), (hidden, inner)]
