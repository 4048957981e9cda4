"""The text that every contender scores: one query and documents of mixed length, the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

MEDIAN_TOKENS = 67
LOG_SIGMA = 0.75
MIN_TOKENS, MAX_TOKENS = 8, 460
LATENCY_PAIR_TOKENS = 110
QUERY_WORDS = 9
JOINED_WORD_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Workload:
    """One query against some documents; pair_seqlens counts the tokens of each pair, special tokens included."""

    name: str
    query: str
    documents: list[str]
    pair_seqlens: list[int]


def read_words(vocab_path: Path) -> list[str]:
    """The plain lower-case words of a WordPiece vocabulary, in its (frequency) order."""
    entries = vocab_path.read_text(encoding="utf-8").split("\n")
    return [word for word in entries if word.isascii() and word.isalpha() and len(word) > 1]


def make_text(words: list[str], num_words: int, rng: np.random.Generator) -> str:
    """Sentences of Zipf-distributed words; a tenth are two words joined, so that they split into several tokens."""
    weights = 1.0 / (np.arange(len(words)) + 10.0)
    picks = rng.choice(len(words), size=2 * num_words, p=weights / weights.sum())
    is_joined = rng.random(num_words) < JOINED_WORD_SHARE
    pieces = [words[picks[2 * i]] + (words[picks[2 * i + 1]] if is_joined[i] else "") for i in range(num_words)]
    for stop in range(11, num_words, 12):
        pieces[stop] += "."
    return " ".join(pieces)


def document_lengths(num_documents: int, rng: np.random.Generator) -> list[int]:
    """Log-normal lengths taken at even quantiles (no sampling luck), clipped to 8..460 tokens, mean about 90."""
    quantiles = [NormalDist().inv_cdf((i + 0.5) / num_documents) for i in range(num_documents)]
    lengths = np.exp(np.log(MEDIAN_TOKENS) + LOG_SIGMA * np.array(quantiles))
    clipped = np.clip(np.rint(lengths), MIN_TOKENS, MAX_TOKENS).astype(int)
    clipped[0], clipped[-1] = MIN_TOKENS, MAX_TOKENS
    return [int(length) for length in rng.permutation(clipped)]


def cut_to_tokens(tokenizer: Any, text: str, num_tokens: int) -> str:
    """The longest prefix of text that is num_tokens tokens long (give or take one where a word is cut)."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return text[: offsets[num_tokens - 1][1]]


def make_workloads(tokenizer: Any, words: list[str], num_documents: int, seed: int = 20) -> list[Workload]:
    """The rerank batch and the single pair of LATENCY_PAIR_TOKENS tokens."""
    rng = np.random.default_rng(seed)
    query = make_text(words, QUERY_WORDS, rng)
    overhead = len(tokenizer(query, "")["input_ids"])
    lengths = document_lengths(num_documents, rng)
    documents = [cut_to_tokens(tokenizer, make_text(words, n, rng), n) for n in lengths]
    pair_document = cut_to_tokens(tokenizer, make_text(words, MAX_TOKENS, rng), LATENCY_PAIR_TOKENS - overhead)
    return [
        Workload("batch", query, documents, pair_seqlens(tokenizer, query, documents)),
        Workload("pair", query, [pair_document], pair_seqlens(tokenizer, query, [pair_document])),
    ]


def pair_seqlens(tokenizer: Any, query: str, documents: list[str]) -> list[int]:
    """Tokens per pair, special tokens included."""
    return [len(ids) for ids in tokenizer([query] * len(documents), documents)["input_ids"]]


def useful_flops(config: Any, seqlens: list[int]) -> float:
    """Multiply-adds x 2 that the logits depend on: encoder layers without padding, heads and norms left out.

    The head reads one row per sequence, so the last layer need compute only that row, and of every token no more than
    its share of scores and sums of each head (docs/kernels-layer.md). An engine that computes the keys and values of
    that layer, or all of it, does more than this.
    """
    hidden, inner, num_layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    num_tokens, num_seqs = sum(seqlens), len(seqlens)
    dense = 8.0 * hidden * hidden + 4.0 * hidden * inner
    full_layer = dense * num_tokens + 4.0 * hidden * sum(n * n for n in seqlens)
    last_layer = dense * num_seqs + 4.0 * hidden * config.num_attention_heads * num_tokens
    return float((num_layers - 1) * full_layer + last_layer)
