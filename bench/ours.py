"""The assay contenders: LLM.score with raw logits, float32 (exact), bfloat16 (fast) and int8 (guarded)."""

from __future__ import annotations

from typing import Any

import numpy as np

from contender import Contender, FloatArray, Loader, Setup, Unavailable


class Assay:
    """One LLM; batching and packing are its own."""

    def __init__(self, setup: Setup, dtype: str, quantization: str | None = None) -> None:
        try:
            from assay import LLM, PoolingParams
            from assay.errors import ConfigError
        except ImportError as err:
            raise Unavailable(f"assay does not import ({err}); build it with: pip install -e .") from err
        settings: dict[str, Any] = {"dtype": dtype, "num_threads": setup.num_threads, "quantization": quantization}
        try:
            self.llm: Any = LLM(str(setup.checkpoint), **settings)
        except ConfigError as err:
            if quantization is None:
                raise
            raise Unavailable(f"the guard refuses {quantization}: {err}") from err
        self.params: Any = PoolingParams(use_activation=False)
        self.settings = f"{dtype}, ragged"
        if (verdict := self.llm.quantization) is not None:
            self.settings = f"int8 in {verdict.num_layers - len(verdict.kept)} of {verdict.num_layers} layers, ragged"
        self.tokenize_s: float | None = None

    def score(self, query: str, documents: list[str]) -> FloatArray:
        """Raw logits [num_documents]."""
        outputs = self.llm.score(query, documents, pooling_params=self.params, use_tqdm=False)
        return np.array([output.outputs.score for output in outputs], dtype=np.float64)


def load_assay(setup: Setup, dtype: str, quantization: str | None = None) -> list[Contender]:
    """assay has one setting per dtype."""
    return [Assay(setup, dtype, quantization)]


LOADERS: dict[str, Loader] = {
    "assay-f32": lambda setup: load_assay(setup, "auto"),  # of a float32 checkpoint: with AMX, three tile products
    "assay-bf16": lambda setup: load_assay(setup, "bfloat16"),
    "assay-int8": lambda setup: load_assay(setup, "bfloat16", "int8"),
}
