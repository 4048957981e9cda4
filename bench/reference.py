"""The right answers: transformers in float64, eager attention, one pair at a time, cached per checkpoint and text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from contender import FloatArray
from workload import Workload


def compute_logits(checkpoint: Path, workload: Workload) -> FloatArray:
    """One float64 forward per pair: no padding, no batching, no fused attention."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, dtype=torch.float64, attn_implementation="eager"
    )
    model.eval()
    with torch.inference_mode():
        logits = [
            model(**tokenizer(workload.query, document, return_tensors="pt")).logits.item()
            for document in workload.documents
        ]
    return np.array(logits)


def reference_logits(
    checkpoint: Path,
    workload: Workload,
    cache: Path,
    compute: Callable[[Path, Workload], FloatArray] = compute_logits,
    num_documents: int | None = None,
) -> FloatArray:
    """float64 logits of the first num_documents pairs of the workload, of all by default."""
    workload = replace(workload, documents=workload.documents[:num_documents])
    with (checkpoint / "model.safetensors").open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256")
    digest.update((checkpoint / "tokenizer.json").read_bytes())
    digest.update(json.dumps([workload.query, workload.documents]).encode())
    target = cache / f"reference-{digest.hexdigest()[:16]}.npy"
    if not target.exists():
        np.save(target, compute(checkpoint, workload))
    logits: FloatArray = np.load(target)
    return logits


def max_abs_error(logits: FloatArray, reference: FloatArray) -> float:
    """Largest distance of a logit from its reference."""
    return float(np.abs(logits - reference).max())


def kendall_tau(logits: FloatArray, reference: FloatArray) -> float | None:
    """Share of document pairs in the reference's order minus the share out of it; None for fewer than two."""
    if len(logits) < 2:
        return None
    upper = np.triu_indices(len(logits), 1)
    agreement = np.sign(np.subtract.outer(logits, logits)) * np.sign(np.subtract.outer(reference, reference))
    return float(agreement[upper].mean())
