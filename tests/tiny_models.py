"""Small random checkpoints of every family, with tokenizers of the real kinds, and the inputs they are tested on."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "A battery that lasts two days is worth the extra weight!",
    "I would not say it was bad, but I would not buy it again either.",
    "Où est la bibliothèque? Elle est fermée depuis l'été dernier.",
    "Die Größe passt überhaupt nicht, trotzdem schöne Farbe.",
    "如何更换花呗绑定银行卡？在设置里可以修改。",
    "東京の天気は今日も晴れです。明日は雨が降るでしょう。",
    "한국어 문장도 하나 들어 있습니다.",
    "Доставка заняла три недели, и коробка была мятой.",
    "مرحبا بالعالم، هذا نص قصير",
    "Price: $1,299.99 (-15%), SKU #A-77/b_2; see https://example.org/x?y=1&z=2",
    "Great 😀👍🏽 service, 10/10 🎉🎉 would go again 👩‍👩‍👧‍👦",
    "def f(x):\n\treturn x ** 2  # squared",
    "ALL CAPS AND   many    spaces",
    "naïve café résumé coöperate façade",
    "antidisestablishmentarianism internationalisation",
)
EDGES = (
    "",
    " ",
    "a",
    "?",
    "😀",
    "猫",
    "trailing spaces   ",
    "   leading spaces",
    "line\nbreak\r\nand\ttab",
    "zero\u200bwidth and\u00a0nbsp",
    "e\u0301 combining, \ufb01 ligature, ½, Ⅷ",
    "[SEP] and </s> and [CLS] <s> as text",
    "\u0000control\u0007chars\u001f",
    "x" * 300,
    "word " * 200,
    "日本" * 150,
)


@cache
def single_texts(count: int = 130) -> tuple[str, ...]:
    """The edge cases, then joined sentences of many lengths."""
    rng = random.Random(7)
    texts = list(EDGES)
    while len(texts) < count:
        parts = [rng.choice(SENTENCES) for _ in range(rng.choice((1, 1, 1, 2, 3, 8)))]
        words = " ".join(parts).split(" ")
        texts.append(" ".join(words[: rng.randint(1, len(words))]))
    return tuple(texts)


@cache
def pair_texts(count: int = 100) -> tuple[tuple[str, str], ...]:
    """Pairs of the same material: edge cases on either side, then mixed lengths."""
    rng = random.Random(8)
    texts = single_texts()
    pairs = [(edge, SENTENCES[i % len(SENTENCES)]) for i, edge in enumerate(EDGES)]
    pairs += [(SENTENCES[i % len(SENTENCES)], edge) for i, edge in enumerate(EDGES)]
    while len(pairs) < count:
        pairs.append((rng.choice(SENTENCES), rng.choice(texts)))
    return tuple(pairs)


def all_inputs() -> list[str | tuple[str, str]]:
    """More than 200 inputs: singles, then pairs."""
    return [*single_texts(), *pair_texts()]


@cache
def corpus() -> tuple[str, ...]:
    """What the tokenizers are trained on."""
    return tuple(SENTENCES) * 4 + tuple(s.lower() for s in SENTENCES)


# The WordPiece and Unigram trainers of `tokenizers` give another vocabulary in every process; these vocabularies are
# counted here instead, so that a test that passes once passes always.


def _most_common(counts: Counter[str], size: int) -> list[str]:
    return [piece for piece, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:size]]


def wordpiece_tokenizer() -> Any:
    """BERT's kind, lower-casing: every character, common words and word ends."""
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from transformers import BertTokenizer

    lines = [BertNormalizer(lowercase=True).normalize_str(line) for line in SENTENCES]
    words = [word for line in lines for word, _ in BertPreTokenizer().pre_tokenize_str(line)]
    chars = sorted(set("".join(words)))
    ends = Counter("##" + word[start:] for word in words for start in range(1, len(word) - 1))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *chars, *("##" + char for char in chars)]
    pieces += _most_common(Counter(words), 120) + _most_common(ends, 150)
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    return BertTokenizer(vocab=vocab, do_lower_case=True, model_max_length=128)


def distilbert_tokenizer() -> Any:
    """The same without token types."""
    tokenizer = wordpiece_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def byte_bpe_tokenizer() -> Any:
    """RoBERTa's kind, byte-level."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizer

    trainer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer.train_from_iterator(corpus(), vocab_size=600, min_frequency=1, show_progress=False, special_tokens=special)
    model = json.loads(trainer._tokenizer.to_str())["model"]
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, model_max_length=128)


def unigram_pieces(size: int) -> list[tuple[str, float]]:
    """Every character, and common pieces of up to four characters, scored by their frequency."""
    words = ["\u2581" + word for line in SENTENCES for word in line.split()]
    counts = Counter(
        word[start:stop] for word in words for start in range(len(word)) for stop in range(start + 1, start + 5)
    )
    chars = sorted(set("".join(words)))
    pieces = dict.fromkeys([*chars, *_most_common(counts, size)])
    return [(piece, math.log(counts[piece] / counts.total())) for piece in pieces]


def unigram_tokenizer() -> Any:
    """XLM-RoBERTa's kind."""
    from transformers import XLMRobertaTokenizer

    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab = [*special, *unigram_pieces(500), ("<mask>", 0.0)]
    return XLMRobertaTokenizer(vocab=vocab, model_max_length=128)


def camembert_tokenizer() -> Any:
    """CamemBERT's kind: Unigram behind four unused entries."""
    from transformers import CamembertTokenizer

    special = [("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0)]
    vocab = [*special, *unigram_pieces(500), ("<s>", 0.0), ("</s>", 0.0), ("<mask>", 0.0)]
    return CamembertTokenizer(vocab=vocab, model_max_length=128)


@dataclass(frozen=True)
class TinyFamily:
    """One family: its transformers class prefix, a tokenizer and a small config."""

    name: str
    tokenizer: Any
    config: dict[str, Any] = field(default_factory=dict)


_BERT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
}
_ROBERTA = {**_BERT, "max_position_embeddings": 130, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
_NO_TYPES = {"max_position_embeddings": 128, "dim": 64, "n_layers": 3, "n_heads": 1, "hidden_dim": 128}

FAMILIES = {
    family.name: family
    for family in (
        TinyFamily("Bert", wordpiece_tokenizer, {**_BERT, "hidden_size": 96, "num_attention_heads": 3}),
        TinyFamily("Roberta", byte_bpe_tokenizer, {**_ROBERTA, "num_attention_heads": 1}),
        TinyFamily("XLMRoberta", unigram_tokenizer, {**_ROBERTA, "hidden_act": "gelu_new"}),
        TinyFamily("Camembert", camembert_tokenizer, {**_ROBERTA, "hidden_act": "silu"}),
        TinyFamily("Ernie", wordpiece_tokenizer, {**_BERT, "use_task_id": True, "type_vocab_size": 4}),
        TinyFamily("Electra", wordpiece_tokenizer, {**_BERT, "embedding_size": 32, "hidden_act": "gelu_pytorch_tanh"}),
        TinyFamily("DistilBert", distilbert_tokenizer, {**_NO_TYPES, "activation": "relu"}),
    )
}


@cache
def _tokenizer(name: str) -> Any:
    return FAMILIES[name].tokenizer()


def randomize(model: Any, seed: int = 0) -> None:
    """Weights of a trained model's size (wider than initialisation), so that attention and biases matter."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.copy_(1.0 + 0.1 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.1 * noise)
            elif "embedding" in name and "project" not in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(noise * (1.6 / parameter.shape[1] ** 0.5))


def make(
    folder: Path, name: str, head: str, *, num_labels: int = 3, seed: int = 0, dtype: Any = None, **config: Any
) -> Path:
    """Write a random checkpoint of class `name` + `head` ("ForSequenceClassification", "Model", ...) with tokenizer."""
    import transformers

    tokenizer = _tokenizer(name)
    values = {**FAMILIES[name].config, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if head not in ("Model", "ForMaskedLM"):
        values["num_labels"] = num_labels
    hf_config = getattr(transformers, f"{name}Config")(**{**values, **config})
    model = getattr(transformers, name + head)(hf_config).eval()
    randomize(model, seed)
    if dtype is not None:
        model = model.to(dtype)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
