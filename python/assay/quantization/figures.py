"""How far the answers of one model are from those of another: rank correlation and changed decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

MOST_ROWS: Final = 1024
"""Rows compared; of token tasks, which have more, every n-th. Rank correlation looks at all pairs of rows."""


@dataclass(frozen=True, slots=True)
class Figures:
    """tau: Kendall's, over pairs of inputs that the reference tells apart. flips: share of decisions that changed.

    decisions: how many there were. max_change: the largest absolute difference of a score.
    """

    tau: float
    flips: float
    decisions: int
    max_change: float

    def __str__(self) -> str:
        return (
            f"tau {self.tau:.4f}, {self.flips:.2%} of {self.decisions} decisions flipped, "
            f"largest change of a score {self.max_change:.3g}"
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """What quantisation may cost.

    bfloat16 itself is held to a tau of 0.99 against float32; int8 may be twice as far from bfloat16. One decision in a
    hundred may change: those are inputs that the model was undecided about. One of fewer may as well.
    """

    min_tau: float = 0.98
    max_flips: float = 0.01

    def allows(self, figures: Figures) -> bool:
        num_flips = round(figures.flips * figures.decisions)
        return figures.tau >= self.min_tau and num_flips <= max(1.0, self.max_flips * figures.decisions)

    def __str__(self) -> str:
        return f"tau >= {self.min_tau:g} and flips <= {self.max_flips:.0%} (or one)"


def compare_scores(reference: Tensor, ours: Tensor, threshold: float | None) -> Figures:
    """Scores [num_rows, num_labels]: tau is the mean over labels.

    A decision is the best label of a row, or, with a threshold, whether each score is above it.
    """
    reference, ours = _thinned(reference), _thinned(ours)
    tau = sum(kendall_tau(a, b) for a, b in zip(reference.T, ours.T, strict=True)) / reference.shape[1]
    if threshold is None:
        changed = reference.argmax(1) != ours.argmax(1)
    else:
        changed = (reference > threshold) != (ours > threshold)
    return Figures(tau, changed.double().mean().item(), changed.numel(), (reference - ours).abs().max().item())


def compare_embeddings(reference: Tensor, ours: Tensor) -> Figures:
    """Embeddings [num_rows, size]: the scores are cosines of all pairs, a decision is the nearest other row."""
    import torch

    cosines = []
    for rows in (_thinned(reference), _thinned(ours)):
        unit = torch.nn.functional.normalize(rows.double(), dim=1)
        cosines.append((unit @ unit.T).fill_diagonal_(-2.0))
    first, second = torch.triu_indices(len(cosines[0]), len(cosines[0]), 1)
    pairs = [_thinned(matrix[first, second]) for matrix in cosines]
    changed = cosines[0].argmax(1) != cosines[1].argmax(1)
    return Figures(
        kendall_tau(*pairs), changed.double().mean().item(), len(changed), (pairs[0] - pairs[1]).abs().max().item()
    )


def kendall_tau(reference: Tensor, ours: Tensor) -> float:
    """Over the pairs of entries [num_rows] that differ in the reference; 1 where none do."""
    order = (reference[:, None] - reference[None]).sign()
    counted = order.abs().sum().item()
    agreement = (order * (ours[:, None] - ours[None]).sign()).sum().item()
    return agreement / counted if counted else 1.0


def _thinned(rows: Tensor) -> Tensor:
    """At most MOST_ROWS, evenly spread."""
    return rows[:: -(-len(rows) // MOST_ROWS)]
