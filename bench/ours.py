"""The assay contenders: LLM.score with raw logits, float32 (exact) and bfloat16 (fast)."""

from __future__ import annotations

from typing import Any

import numpy as np

from contender import Contender, FloatArray, Loader, Setup, Unavailable


class Assay:
    """One LLM; batching and packing are its own."""

    def __init__(self, setup: Setup, dtype: str) -> None:
        try:
            from assay import LLM, PoolingParams
        except ImportError as err:
            raise Unavailable(f"assay does not import ({err}); build it with: pip install -e .") from err
        self.llm: Any = LLM(str(setup.checkpoint), dtype=dtype, num_threads=setup.num_threads)
        self.params: Any = PoolingParams(use_activation=False)
        self.settings = f"{dtype}, ragged"
        self.tokenize_s: float | None = None

    def score(self, query: str, documents: list[str]) -> FloatArray:
        """Raw logits [num_documents]."""
        outputs = self.llm.score(query, documents, pooling_params=self.params, use_tqdm=False)
        return np.array([output.outputs.score for output in outputs], dtype=np.float64)


def load_assay(setup: Setup, dtype: str) -> list[Contender]:
    """assay has one setting per dtype."""
    return [Assay(setup, dtype)]


LOADERS: dict[str, Loader] = {
    "assay-f32": lambda setup: load_assay(setup, "float32"),
    "assay-bf16": lambda setup: load_assay(setup, "bfloat16"),
}
