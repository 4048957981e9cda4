"""assay: which class, how relevant, how good - classifiers, cross-encoders and embedding models.

Names load on first use: importing the package brings in neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay.config import PoolerConfig
    from assay.errors import (
        AssayError,
        ConfigError,
        EngineDeadError,
        MissingExtra,
        NonFiniteError,
        SelfCheckError,
        UnsupportedModelError,
        ValidationError,
        WeightsError,
    )
    from assay.inputs import TextPrompt, TokensPrompt
    from assay.llm import LLM
    from assay.outputs import (
        ClassificationOutput,
        ClassificationRequestOutput,
        EmbeddingOutput,
        EmbeddingRequestOutput,
        PoolingOutput,
        PoolingRequestOutput,
        RequestError,
        ScoringOutput,
        ScoringRequestOutput,
    )
    from assay.params import PoolingParams

__version__ = "0.1.0"

_HOMES = {
    "LLM": "assay.llm",
    "PoolerConfig": "assay.config",
    "PoolingParams": "assay.params",
    "TextPrompt": "assay.inputs",
    "TokensPrompt": "assay.inputs",
    "PoolingOutput": "assay.outputs",
    "PoolingRequestOutput": "assay.outputs",
    "ClassificationOutput": "assay.outputs",
    "ClassificationRequestOutput": "assay.outputs",
    "ScoringOutput": "assay.outputs",
    "ScoringRequestOutput": "assay.outputs",
    "EmbeddingOutput": "assay.outputs",
    "EmbeddingRequestOutput": "assay.outputs",
    "RequestError": "assay.outputs",
    "AssayError": "assay.errors",
    "ConfigError": "assay.errors",
    "EngineDeadError": "assay.errors",
    "MissingExtra": "assay.errors",
    "NonFiniteError": "assay.errors",
    "SelfCheckError": "assay.errors",
    "UnsupportedModelError": "assay.errors",
    "ValidationError": "assay.errors",
    "WeightsError": "assay.errors",
}
"""Where each exported name lives."""

__all__ = [
    "LLM",
    "AssayError",
    "ClassificationOutput",
    "ClassificationRequestOutput",
    "ConfigError",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "EngineDeadError",
    "MissingExtra",
    "NonFiniteError",
    "PoolerConfig",
    "PoolingOutput",
    "PoolingParams",
    "PoolingRequestOutput",
    "RequestError",
    "ScoringOutput",
    "ScoringRequestOutput",
    "SelfCheckError",
    "TextPrompt",
    "TokensPrompt",
    "UnsupportedModelError",
    "ValidationError",
    "WeightsError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'assay' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
