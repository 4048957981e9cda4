"""Small random language models that look like known rerankers, and what transformers says of a prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import reranker_tokenizers
import tiny_models

_SIZES = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 4096,
}


@dataclass(frozen=True)
class TinyReranker:
    """One kind: its class in transformers, a tokenizer, what the seed page sets by hand, and how its logits score.

    labels: the label tokens, [false, true] or one alone; None for a checkpoint with a head of its own.
    """

    class_name: str
    tokenizer: Any
    name: str
    overrides: dict[str, Any]
    labels: tuple[str, ...] | None
    is_tied: bool = True


RERANKERS = {
    "qwen3-reranker": TinyReranker(
        "Qwen3",
        reranker_tokenizers.qwen3,
        "Qwen3-Reranker-tiny",
        {
            "architectures": ["Qwen3ForSequenceClassification"],
            "classifier_from_token": ["no", "yes"],
            "is_original_qwen3_reranker": True,
        },
        ("no", "yes"),
    ),
    "mxbai-rerank-v2": TinyReranker(
        "Qwen2",
        reranker_tokenizers.qwen2,
        "mxbai-rerank-tiny-v2",
        {
            "architectures": ["Qwen2ForSequenceClassification"],
            "classifier_from_token": ["0", "1"],
            "method": "from_2_way_softmax",
        },
        ("0", "1"),
        is_tied=False,
    ),
    "bge-reranker-v2-gemma": TinyReranker(
        "Gemma",
        reranker_tokenizers.gemma,
        "bge-reranker-v2-gemma",
        {
            "architectures": ["GemmaForSequenceClassification"],
            "classifier_from_token": ["Yes"],
            "method": "no_post_processing",
        },
        ("Yes",),
    ),
    "llama-nemotron-rerank": TinyReranker("Llama", reranker_tokenizers.llama3, "llama-nemotron-rerank-tiny", {}, None),
}


def make(parent: Path, kind: str, head: str | None = None, **config: Any) -> Path:
    """Write a checkpoint of a kind, under the name such models have; head: instead of the one such models have."""
    import transformers

    spec = RERANKERS[kind]
    tokenizer = spec.tokenizer()
    values = {**_SIZES, "vocab_size": len(tokenizer), "tie_word_embeddings": spec.is_tied, **config}
    head = head or ("ForCausalLM" if spec.labels is not None else "ForSequenceClassification")
    if spec.labels is None:
        values.update(num_labels=1, is_causal=False)
    for key in ("pad_token_id", "eos_token_id", "bos_token_id"):
        values[key] = getattr(tokenizer, key)
    hf_config = getattr(transformers, f"{spec.class_name}Config")(**values)
    model = getattr(transformers, spec.class_name + head)(hf_config).eval()
    tiny_models.randomize(model, seed=11)
    folder = parent / spec.name
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if spec.labels is None:
        path = folder / "config.json"
        written = json.loads(path.read_text())
        written.pop("is_causal", None)
        names = {"architectures": ["LlamaBidirectionalForSequenceClassification"], "model_type": "llama_bidirec"}
        path.write_text(json.dumps({**written, **names, "pooling": "avg"}))
    return folder


@cache
def reference(folder: Path, kind: str) -> Any:
    """transformers' model of a checkpoint, float32 and eager."""
    import torch
    import transformers

    spec = RERANKERS[kind]
    settings: dict[str, Any] = {"attn_implementation": "eager", "dtype": torch.float32}
    if spec.labels is not None:
        return transformers.AutoModelForCausalLM.from_pretrained(folder, **settings).eval()
    config = transformers.LlamaConfig.from_pretrained(folder)
    config.is_causal = False
    return transformers.LlamaForSequenceClassification.from_pretrained(folder, config=config, **settings).eval()


def logits(folder: Path, kind: str, token_ids: list[int]) -> Any:
    """What the score is made of: float32 logits of the label tokens behind the prompt, or the head's logit."""
    import torch

    spec, model = RERANKERS[kind], reference(folder, kind)
    ids = torch.tensor([token_ids])
    with torch.no_grad():
        if spec.labels is not None:
            last = model(ids).logits[0, -1]
            return last[spec.tokenizer().convert_tokens_to_ids(list(spec.labels))]
        full = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool)
        states = model.model(ids, attention_mask=torch.zeros(full.shape)).last_hidden_state[0]
        return model.score(states.mean(dim=0))


def score(folder: Path, kind: str, token_ids: list[int]) -> float:
    """The probability the model card computes: softmax over the two labels, or sigmoid of one logit."""
    values = logits(folder, kind, token_ids)
    return float(values.softmax(0)[1] if len(values) == 2 else values.sigmoid()[0])
