"""Headers of every answer: where the time went, and what was done to the input."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assay.server.result import Answer


def reply_headers(answer: Answer, total_s: float) -> dict[str, str]:
    """Timing under the names of text-embeddings-inference, in milliseconds; ours begin with x-assay-."""
    timing = answer.timing
    headers = {
        "x-total-time": _ms(total_s),
        "x-tokenization-time": _ms(timing.tokenize_s),
        "x-queue-time": _ms(timing.queue_s),
        "x-inference-time": _ms(timing.compute_s),
        "x-compute-time": _ms(timing.tokenize_s + timing.compute_s),
        "x-compute-tokens": str(answer.num_tokens),
        "x-compute-characters": str(answer.num_characters),
        "x-compute-type": "cpu",
        "x-assay-score-kind": answer.score_kind,
    }
    if num_truncated := answer.num_truncated:
        headers["x-assay-truncated-items"] = str(num_truncated)
    return headers


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3f}"
