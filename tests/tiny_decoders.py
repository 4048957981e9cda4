"""Small random checkpoints of the decoders and modern encoders, and transformers' answers to inputs of many lengths."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import transformers

import reference_gte
from parity import hf_logits

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SEQUENCE, TOKEN = "ForSequenceClassification", "ForTokenClassification"
VOCAB_SIZE = 160
FIRST_ID = 4
"""Lower ids are special: transformers skips pad tokens at the end of a text, this package takes texts as they are."""
LENGTHS = (1, 2, 3, 5, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 127, 128, 129, 199, 256, 257, 300)

INPUTS_PER_LENGTH = 4
"""Enough for the mean error in bfloat16, ours and transformers', to be no accident of one input."""


@dataclass(frozen=True)
class TinyDecoder:
    """One checkpoint: its transformers class prefix, head, and config.

    reads: what its config.json says instead (keys of other formats, another architecture), for the same computation.
    pooling: how the reference pools before `score` where its class does not do it the way that is meant.
    """

    class_name: str
    head: str = SEQUENCE
    config: dict[str, Any] = field(default_factory=dict)
    reads: dict[str, Any] = field(default_factory=dict)
    pooling: str | None = None


_SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "intermediate_size": 80, "num_attention_heads": 4}
_LLAMA = {**_SIZES, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 320}
_PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 80}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.01 * i for i in range(8)],
    "long_factor": [1.0 + 0.5 * i for i in range(8)],
    "original_max_position_embeddings": 64,
}
_SLIDING = {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}
_GEMMA = {**_LLAMA, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}
_GPT2 = {"n_embd": 48, "n_layer": 3, "n_head": 3, "n_positions": 320, "pad_token_id": None}
_MODERNBERT = {
    **_SIZES,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "local_attention": 32,
    "max_position_embeddings": 320,
    "pad_token_id": 0,
}

_GTE = {
    **_SIZES,
    "hidden_size": 64,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 320,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-12,
    "rope_theta": 20000.0,
    "hidden_act": "gelu",
    "layer_norm_type": "layer_norm",
    "position_embedding_type": "rope",
    "pack_qkv": True,
}

CASES = {
    "llama": TinyDecoder("Llama", config={**_LLAMA, "rope_parameters": _LLAMA3}),
    "llama-biases": TinyDecoder("Llama", config={**_LLAMA, "attention_bias": True, "mlp_bias": True}),
    "llama-linear": TinyDecoder(
        "Llama",
        config={**_LLAMA, "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
        reads={"rope_parameters": None, "rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
    ),
    "llama-dynamic": TinyDecoder(
        "Llama", config={**_LLAMA, "rope_parameters": {**_PLAIN_ROPE, "rope_type": "dynamic", "factor": 2.0}}
    ),
    "llama-yarn": TinyDecoder("Llama", config={**_LLAMA, "rope_parameters": _YARN}),
    "llama-longrope": TinyDecoder("Llama", config={**_LLAMA, "rope_parameters": _LONG}),
    "llama-token": TinyDecoder("Llama", TOKEN, {**_LLAMA, "hidden_act": "gelu"}),
    **{
        f"llama-bidirectional-{pooling}": TinyDecoder(
            "Llama",
            config={**_LLAMA, "is_causal": False},
            reads={
                "architectures": ["LlamaBidirectionalForSequenceClassification"],
                "model_type": "llama_bidirec",
                "is_causal": None,
                "pooling": pooling,
            },
            pooling=pooling,
        )
        for pooling in ("avg", "cls", "last")
    },
    "mistral": TinyDecoder("Mistral", config={**_LLAMA, "sliding_window": 24}),
    "mistral-full": TinyDecoder("Mistral", config={**_LLAMA, "sliding_window": None}),
    "qwen2": TinyDecoder("Qwen2", config={**_LLAMA, **_SLIDING}),
    "qwen2-bidirectional": TinyDecoder("Qwen2", config={**_LLAMA, **_SLIDING, "is_causal": False}),
    "qwen2-one-head": TinyDecoder("Qwen2", config={**_LLAMA, "num_attention_heads": 2, "num_key_value_heads": 1}),
    "qwen3": TinyDecoder("Qwen3", config={**_LLAMA, "head_dim": 24, "tie_word_embeddings": True}),
    "qwen3-sliding": TinyDecoder("Qwen3", config={**_LLAMA, **_SLIDING, "attention_bias": True}),
    "qwen3-token": TinyDecoder("Qwen3", TOKEN, _LLAMA),
    "qwen3-token-unbiased": TinyDecoder("Qwen3", TOKEN, {**_LLAMA, "token_classification_bias": False}),
    "gemma": TinyDecoder("Gemma", config={**_GEMMA, "num_key_value_heads": 1}),
    "gemma2": TinyDecoder(
        "Gemma2",
        config={**_GEMMA, "sliding_window": 24, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 20},
    ),
    "gemma2-token": TinyDecoder("Gemma2", TOKEN, {**_GEMMA, "attn_logit_softcapping": None, "attention_bias": True}),
    "gemma3": TinyDecoder(
        "Gemma3Text",
        config={
            **_GEMMA,
            "sliding_window": 24,
            "query_pre_attn_scalar": 20,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": _PLAIN_ROPE,
            },
        },
        reads={
            "rope_parameters": None,
            "layer_types": None,
            "sliding_window_pattern": 2,
            "rope_theta": 1e6,
            "rope_local_base_freq": 10000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    "gemma3-bidirectional": TinyDecoder(
        "Gemma3Text",
        config={**_GEMMA, "sliding_window": 48, "use_bidirectional_attention": True},
        reads={"sliding_window": 48},  # transformers halves it when it is read, and saves the half
    ),
    "gpt2": TinyDecoder("GPT2", config=_GPT2),
    "gpt2-scales": TinyDecoder(
        "GPT2",
        config={**_GPT2, "n_inner": 72, "scale_attn_by_inverse_layer_idx": True, "activation_function": "relu"},
    ),
    "gpt2-padded": TinyDecoder("GPT2", config={**_GPT2, "n_head": 4}),  # heads of 12
    "gpt2-token": TinyDecoder("GPT2", TOKEN, {**_GPT2, "scale_attn_weights": False}),
    "modernbert": TinyDecoder("ModernBert", config=_MODERNBERT),
    "modernbert-mean": TinyDecoder(
        "ModernBert",
        config={
            **_MODERNBERT,
            "classifier_pooling": "mean",
            "attention_bias": True,
            "mlp_bias": True,
            "norm_bias": True,
            "classifier_bias": True,
            "classifier_activation": "silu",
        },
        reads={
            "rope_parameters": None,
            "layer_types": None,
            "global_attn_every_n_layers": 3,
            "global_rope_theta": 160000.0,
            "local_rope_theta": 10000.0,
        },
    ),
    "modernbert-token": TinyDecoder("ModernBert", TOKEN, _MODERNBERT),
    "gte": TinyDecoder("GteNew", config=_GTE),
    "gte-ntk": TinyDecoder("GteNew", config={**_GTE, "rope_scaling": {"type": "ntk", "factor": 4.0}}),
    "gte-mixed-ntk": TinyDecoder(
        "New",
        config={**_GTE, "type_vocab_size": 0, "rope_scaling": {"type": "ntk", "factor": 4.0, "mixed_b": 0.625}},
    ),
    "gte-partial": TinyDecoder("GteNew", config={**_GTE, "rotary_emb_dim": 8, "type_vocab_size": 2}),
}


@dataclass(frozen=True)
class Answers:
    """A checkpoint, inputs, and per input the logits of transformers in float32 and in bfloat16."""

    folder: Path
    ids: list[list[int]]
    float32: list[torch.Tensor]
    bfloat16: list[torch.Tensor]


_answers: dict[tuple[str, int], Answers] = {}


def input_ids(seed: int = 5, per_length: int = 1) -> list[list[int]]:
    """`per_length` inputs of each length, every length once before any comes again."""
    rng = random.Random(seed)
    return [[rng.randrange(FIRST_ID, VOCAB_SIZE) for _ in range(length)] for length in LENGTHS * per_length]


def answers(tmp_path_factory: pytest.TempPathFactory, name: str, seed: int = 0) -> Answers:
    """A case's checkpoint with that seed's weights and reference, made once per session."""
    if (name, seed) not in _answers:
        _answers[name, seed] = _make_answers(tmp_path_factory.mktemp(name) / "model", CASES[name], seed)
    return _answers[name, seed]


def make_model(case: TinyDecoder, num_labels: int = 3, seed: int = 0) -> Any:
    """The transformers model with random weights, eager attention."""
    values = {"vocab_size": VOCAB_SIZE, "num_labels": num_labels, "bos_token_id": 1, "eos_token_id": 2, **case.config}
    config = getattr(transformers, f"{case.class_name}Config")(**values)
    config._attn_implementation = "eager"
    model = getattr(transformers, case.class_name + case.head)(config).eval()
    randomize(model, offset=0.0 if case.class_name.startswith("Gemma") else 1.0, seed=seed)
    return model


def randomize(model: torch.nn.Module, offset: float, seed: int = 0) -> None:
    """Weights of a trained model's size, so that attention and biases matter; `offset` is the mean of a norm's."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.1 * noise + (offset if name.endswith("weight") else 0.0))
            elif any(word in name for word in ("embed", "wte", "wpe")):
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(noise * (1.6 / parameter.shape[1] ** 0.5))


def save(model: Any, folder: Path, reads: dict[str, Any]) -> Path:
    """Write the checkpoint; `reads` replaces keys of its config.json."""
    import json

    model.save_pretrained(folder)
    path = folder / "config.json"
    values = {**json.loads(path.read_text(encoding="utf-8")), **reads}
    path.write_text(json.dumps(values), encoding="utf-8")
    return folder


def _make_answers(folder: Path, case: TinyDecoder, seed: int) -> Answers:
    ids = input_ids(per_length=INPUTS_PER_LENGTH)
    if case.class_name in reference_gte.CLASS_NAMES:
        weights = reference_gte.save(folder, case.class_name + case.head, case.config, seed)
        exact, rough = (
            [reference_gte.logits(weights, case.config, row, dtype) for row in ids]
            for dtype in (torch.float64, torch.bfloat16)
        )
        return Answers(folder, ids, exact, rough)
    model = make_model(case, seed=seed)
    save(model, folder, case.reads)
    exact = _logits(model, case, ids)
    return Answers(folder, ids, exact, _logits(model.to(torch.bfloat16), case, ids))


def _logits(model: Any, case: TinyDecoder, ids: list[list[int]]) -> list[torch.Tensor]:
    encodings = [{"input_ids": torch.tensor([row])} for row in ids]
    if case.pooling is None:
        return hf_logits(model, encodings)
    with torch.inference_mode():
        states = [model.model(**encoding).last_hidden_state[0] for encoding in encodings]
        pick = {"avg": lambda rows: rows.mean(0), "cls": lambda rows: rows[0], "last": lambda rows: rows[-1]}
        return [model.score(pick[case.pooling](rows)).float() for rows in states]
