"""A reranker made of a language model, Qwen3-0.6B shape with random weights: folder, prompts, answers, work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints import SEED, built, minilm_folder
from contender import FloatArray
from workload import Workload, make_text, make_workloads, read_words

SHAPE = {
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "tie_word_embeddings": True,
    # Qwen3 says 40,960: it sizes buffers, and no prompt here is a tenth of this.
    "max_position_embeddings": 4096,
}
# Larger than the usual 0.02 so that random layers tell documents apart.
INIT_STD = 0.04
BPE_SIZE = 16_000
ANSWERS = ("no", "yes")
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
TEMPLATE = "qwen3_reranker.jinja"


def train_tokenizer() -> Any:
    """Qwen's byte-level tokenizer with merges from seeded text; the answers are single tokens, as in the original."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    rng = np.random.default_rng(SEED)
    words = read_words(minilm_folder() / "vocab.txt")
    backend = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_SIZE, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    # "yes" alone on a line: only without a space in front is it the token that is asked for.
    texts = [make_text(words, 400, rng) for _ in range(1000)] + list(ANSWERS) * 1000
    backend.train_from_iterator(texts, trainer)
    bpe = json.loads(backend.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=bpe["vocab"],
        merges=[tuple(merge) for merge in bpe["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=SHAPE["max_position_embeddings"],
    )
    tokenizer.add_tokens(SPECIAL_TOKENS, special_tokens=True)
    return tokenizer


def build(folder: Path, num_layers: int) -> None:
    """Save the causal language model in bfloat16, with the reranker's prompt as its chat template."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from assay.templates import template_source

    tokenizer = train_tokenizer()
    tokenizer.chat_template = template_source(TEMPLATE)
    if None in answer_ids(tokenizer):
        raise SystemExit(f"the tokenizer has no single tokens for {ANSWERS}")
    values = SHAPE | {"num_hidden_layers": num_layers, "initializer_range": INIT_STD}
    tokens = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(SEED)
    model: Any = Qwen3ForCausalLM(Qwen3Config(**values, **tokens, bos_token_id=None))
    tokenizer.save_pretrained(folder)
    model.to(torch.bfloat16).save_pretrained(folder)


def folder_of(cache: Path, num_layers: int) -> Path:
    """The checkpoint under cache, built on first use."""
    return built(cache / f"qwen3-reranker-{num_layers}-layers" / "checkpoint", lambda folder: build(folder, num_layers))


def answer_ids(tokenizer: Any) -> list[int | None]:
    """The ids of "no" and "yes"; None for one that is not a token."""
    vocab = tokenizer.get_vocab()
    return [vocab.get(answer) for answer in ANSWERS]


def prompt_ids(tokenizer: Any, query: str, document: str) -> list[int]:
    """What every contender must make of a pair."""
    messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def make_batch(tokenizer: Any, num_documents: int) -> Workload:
    """The documents of the reranking benchmark in this tokenizer's tokens; lengths are those of whole prompts."""
    batch, _ = make_workloads(tokenizer, read_words(minilm_folder() / "vocab.txt"), num_documents)
    seqlens = [len(prompt_ids(tokenizer, batch.query, document)) for document in batch.documents]
    return Workload(batch.name, batch.query, batch.documents, seqlens)


def compute_logits(checkpoint: Path, workload: Workload) -> FloatArray:
    """logit("yes") - logit("no") behind each prompt: float64, eager attention, one prompt at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    no, yes = answer_ids(tokenizer)
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float64, attn_implementation="eager")
    model.eval()
    found = []
    with torch.inference_mode():
        for document in workload.documents:
            ids = torch.tensor([prompt_ids(tokenizer, workload.query, document)])
            last = model(ids, logits_to_keep=1).logits[0, -1]
            found.append((last[yes] - last[no]).item())
    return np.array(found)


def useful_flops(config: Any, seqlens: list[int]) -> float:
    """Multiply-adds x 2 that the scores depend on: of the last layer keys, values and one row per prompt."""
    hidden, num_layers = config.hidden_size, config.num_hidden_layers
    q_size, kv_size = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    num_tokens, num_seqs = sum(seqlens), len(seqlens)
    keys_values = 4.0 * hidden * kv_size
    other_dense = 4.0 * hidden * q_size + 6.0 * hidden * config.intermediate_size
    causal_pairs = sum(n * (n + 1) / 2 for n in seqlens)
    full_layer = (keys_values + other_dense) * num_tokens + 4.0 * q_size * causal_pairs
    last_layer = keys_values * num_tokens + other_dense * num_seqs + 4.0 * q_size * num_tokens
    return float((num_layers - 1) * full_layer + last_layer)
