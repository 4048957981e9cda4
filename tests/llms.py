"""Tiny models for tests of the whole offline path, each made and loaded once per test run."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

import tiny_models
from assay import LLM

CLASSIFIER, TOKENS, MODEL = "ForSequenceClassification", "ForTokenClassification", "Model"
LABELS = {0: "negative", 1: "neutral", 2: "positive"}

_root = tempfile.TemporaryDirectory(prefix="assay-tests-")


@cache
def folder(head: str = CLASSIFIER, num_labels: int = 3, family: str = "Bert") -> Path:
    """A random checkpoint; classifiers of three labels have names for them."""
    target = Path(_root.name) / f"{family}-{head}-{num_labels}"
    names: dict[str, Any] = {"id2label": LABELS} if num_labels == 3 and head != MODEL else {}
    return tiny_models.make(target, family, head, num_labels=num_labels, seed=3, **names)


def load(head: str = CLASSIFIER, num_labels: int = 3, family: str = "Bert", **settings: Any) -> LLM:
    """A fresh LLM over that checkpoint."""
    return LLM(folder(head, num_labels, family), **settings)


@cache
def shared(head: str = CLASSIFIER, num_labels: int = 3, family: str = "Bert", **settings: Any) -> LLM:
    """The same, loaded once; with default settings where none are given."""
    return load(head, num_labels, family, **settings)


@cache
def reference(head: str = CLASSIFIER, num_labels: int = 3, family: str = "Bert") -> tuple[Any, Any]:
    """transformers' model and tokenizer of that checkpoint."""
    from transformers import (
        AutoModel,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        AutoTokenizer,
    )

    kinds = {
        CLASSIFIER: AutoModelForSequenceClassification,
        TOKENS: AutoModelForTokenClassification,
        MODEL: AutoModel,
    }
    path = folder(head, num_labels, family)
    model = kinds[head].from_pretrained(path, attn_implementation="eager", dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(path)


def logits(
    *texts: Any, head: str = CLASSIFIER, num_labels: int = 3, family: str = "Bert", **kwargs: Any
) -> torch.Tensor:
    """transformers' logits of one text, pair or {"input_ids": ...}, without the batch dimension."""
    model, tokenizer = reference(head, num_labels, family)
    inputs = tokenizer(*texts, return_tensors="pt", **kwargs) if isinstance(texts[0], str) else texts[0]
    with torch.no_grad():
        result: torch.Tensor = model(**inputs).logits[0]
    return result


def close(ours: Any, theirs: torch.Tensor, tolerance: float = 1e-4) -> bool:
    """Whether logits or scores agree within the float32 budget."""
    difference = (torch.as_tensor(ours, dtype=torch.float32) - theirs).abs().max().item()
    return difference <= tolerance * max(1.0, theirs.abs().max().item())
