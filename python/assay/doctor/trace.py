"""What one side, assay or transformers, made of one input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trace:
    """logits and scores: [num_labels], [num_tokens, num_labels] for token labels, [hidden_size] for embeddings.

    For embeddings `logits` is the pooled vector before, `scores` after normalisation.
    """

    input_ids: list[int]
    token_type_ids: list[int]
    logits: Array
    scores: Array
