"""Numbers that say how far two sets of traces are apart."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assay.doctor.trace import Array, Trace

MAX_RANKED = 2000
"""Kendall's tau compares every pair of values; more values than this are thinned out first."""


@dataclass(frozen=True, slots=True)
class TokenDifference:
    """The first place where two token sequences part; None is past the end of one of them."""

    position: int
    ours: int | None
    theirs: int | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One input: where the tokens part, and the largest errors; an error is None where shapes or values forbid it."""

    token: TokenDifference | None
    types_differ: bool
    logit_error: float | None
    score_error: float | None
    top_label_changed: bool


@dataclass(frozen=True, slots=True)
class Totals:
    """Over all inputs."""

    max_logit_error: float | None
    mean_logit_error: float | None
    max_score_error: float | None
    max_reference_logit: float
    kendall_tau: float | None
    top_k: int
    top_k_changes: int


def difference(ours: Trace, theirs: Trace) -> Difference:
    """Compare the two sides on one input."""
    has_labels = ours.logits.shape == theirs.logits.shape and ours.logits.shape[-1] > 1
    changed = has_labels and bool((ours.logits.argmax(-1) != theirs.logits.argmax(-1)).any())
    return Difference(
        token=first_difference(ours.input_ids, theirs.input_ids),
        types_differ=ours.token_type_ids != theirs.token_type_ids,
        logit_error=max_error(ours.logits, theirs.logits),
        score_error=max_error(ours.scores, theirs.scores),
        top_label_changed=changed,
    )


def first_difference(ours: list[int], theirs: list[int]) -> TokenDifference | None:
    """Where two lists part, or None where they are equal."""
    for position, (a, b) in enumerate(itertools.zip_longest(ours, theirs)):
        if a != b:
            return TokenDifference(position, a, b)
    return None


def max_error(ours: Array, theirs: Array) -> float | None:
    """The largest absolute difference; None for different shapes or where a value is not finite."""
    import numpy as np

    if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return None
    return float(np.abs(ours - theirs).max()) if ours.size else 0.0


def totals(ours: list[Trace], theirs: list[Trace], *, is_embedding: bool, top_k: int = 10) -> Totals:
    """Summary over all inputs; pairs of traces that cannot be compared are left out of the sums."""
    import numpy as np

    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if max_error(a.logits, b.logits) is not None]
    errors = [np.abs(a.logits - b.logits).ravel() for a, b in pairs]
    flat = np.concatenate(errors) if errors else np.empty(0)
    score_errors = [error for a, b in pairs if (error := max_error(a.scores, b.scores)) is not None]
    finite = [np.abs(b.logits[np.isfinite(b.logits)]) for b in theirs]
    largest = max((float(values.max()) for values in finite if values.size), default=0.0)
    columns_ours = ranking_columns([a for a, _ in pairs], is_embedding=is_embedding)
    columns_theirs = ranking_columns([b for _, b in pairs], is_embedding=is_embedding)
    taus = [tau for a, b in zip(columns_ours, columns_theirs, strict=True) if (tau := kendall_tau(a, b)) is not None]
    changes = [top_changes(a, b, top_k) for a, b in zip(columns_ours, columns_theirs, strict=True)]
    return Totals(
        max_logit_error=float(flat.max()) if flat.size else None,
        mean_logit_error=float(flat.mean()) if flat.size else None,
        max_score_error=max(score_errors, default=None),
        max_reference_logit=largest,
        kendall_tau=min(taus, default=None),
        top_k=top_k,
        top_k_changes=max(changes, default=0),
    )


def ranking_columns(traces: list[Trace], *, is_embedding: bool) -> list[Array]:
    """The values that a user would sort by: one column per label (less the mean over labels), or all cosines."""
    import numpy as np

    if not traces:
        return []
    if is_embedding:
        vectors = np.stack([trace.scores / max(float(np.linalg.norm(trace.scores)), 1e-30) for trace in traces])
        upper = np.triu_indices(len(traces), k=1)
        return [_thinned((vectors @ vectors.T)[upper])]
    rows = np.concatenate([np.atleast_2d(trace.logits) for trace in traces])
    if rows.shape[1] > 1:
        rows = rows - rows.mean(axis=1, keepdims=True)
    return [_thinned(rows[:, label]) for label in range(rows.shape[1])]


def _thinned(values: Array) -> Array:
    return values[:: -(-len(values) // MAX_RANKED)] if len(values) > MAX_RANKED else values


def kendall_tau(ours: Array, theirs: Array) -> float | None:
    """Kendall's tau-b of two columns; None where a column has no order to compare."""
    import numpy as np

    if len(ours) < 2:
        return None
    upper = np.triu_indices(len(ours), k=1)
    signs_ours = np.sign(ours[upper[0]] - ours[upper[1]])
    signs_theirs = np.sign(theirs[upper[0]] - theirs[upper[1]])
    norm = float(np.sqrt((signs_ours**2).sum() * (signs_theirs**2).sum()))
    return None if norm == 0 else float((signs_ours * signs_theirs).sum()) / norm


def top_changes(ours: Array, theirs: Array, top_k: int) -> int:
    """How many of the reference's `top_k` highest are not among ours."""
    import numpy as np

    best_ours, best_theirs = (set(np.argsort(-column, kind="stable")[:top_k].tolist()) for column in (ours, theirs))
    return len(best_theirs - best_ours)
