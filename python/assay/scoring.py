"""The two sides of `LLM.score`: reading, pairing and limiting them, and comparing embeddings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from assay.errors import ValidationError
from assay.media import read_parts
from assay.tasks import SCORE_KINDS

if TYPE_CHECKING:
    from torch import Tensor

    from assay.hf_config import HFConfig
    from assay.media import ImageRules, ImageSource

logger = logging.getLogger(__name__)

_LIMITS: Final = ("max_tokens_per_query", "max_tokens_per_doc")


@dataclass(frozen=True, slots=True)
class ScoreText:
    """One side of a pair; is_parts tells that it came as content parts, which bi-encoders never cut.

    images: the text has a placeholder for each.
    """

    text: str
    is_parts: bool = False
    images: tuple[ImageSource, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoreLimits:
    """Content tokens to keep of each side; 0 keeps all."""

    query: int = 0
    doc: int = 0

    @property
    def any(self) -> bool:
        """Whether a side is limited."""
        return self.query > 0 or self.doc > 0


def check_kind(task: str, num_labels: int) -> str:
    """The kind of score of an active task; raises ValidationError where it has none."""
    kind = SCORE_KINDS.get(task)
    if kind is None:
        raise ValidationError("This model does not support the Scoring API.")
    if kind == "cross-encoder" and num_labels != 1:
        raise ValidationError("Scoring API is only enabled for num_labels == 1.")
    return kind


def score_texts(data: Any, architecture: str, rules: ImageRules | None = None) -> list[ScoreText]:
    """One side of a score call: a str, {"content": [parts]} or a list of those; rules: of a model that takes images."""
    if isinstance(data, str | Mapping):
        data = [data]
    elif hasattr(data, "tolist"):
        data = data.tolist()
    if not isinstance(data, Sequence):
        raise ValidationError(f"score inputs must be str, a content dict or a list of those, got {type(data).__name__}")
    return [
        _from_text(item, rules) if isinstance(item, str) else _from_parts(item, architecture, rules) for item in data
    ]


def _from_text(text: str, rules: ImageRules | None, *, is_parts: bool = False) -> ScoreText:
    return ScoreText(text if rules is None else rules.placed(text, 0), is_parts)


def _from_parts(item: Any, architecture: str, rules: ImageRules | None) -> ScoreText:
    content = item.get("content") if isinstance(item, Mapping) else None
    if isinstance(content, str):
        return _from_text(content, rules, is_parts=True)
    if not isinstance(content, Sequence):
        shown = type(item).__name__ if content is None else f"{{'content': {type(content).__name__}}}"
        raise ValidationError(f"a score input must be str or {{'content': [parts]}}, got {shown}")
    parts = read_parts(content, architecture, rules)
    text = "\n".join(parts.texts)
    return ScoreText(text if rules is None else rules.placed(text, len(parts.images)), True, parts.images)


def check_pairing(num_queries: int, num_docs: int) -> None:
    """Raise ValidationError unless the sides pair 1:1, 1:N or N:N."""
    if num_queries > 1 and num_queries != num_docs:
        raise ValidationError("Input lengths must be either 1:1, 1:N or N:N")
    if num_queries == 0:
        raise ValidationError("At least one text element must be given")
    if num_docs == 0:
        raise ValidationError("At least one text_pair element must be given")


def score_limits(extra_kwargs: Mapping[str, Any] | None, max_model_len: int) -> ScoreLimits:
    """Read max_tokens_per_query and max_tokens_per_doc; None and 0 mean no limit."""
    counts = []
    for name in _LIMITS:
        value = (extra_kwargs or {}).get(name)
        value = 0 if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValidationError(f"{name} must be a non-negative integer")
        if value >= max_model_len:
            raise ValidationError(f"{name} ({value}) must be less than max_model_len ({max_model_len}).")
        counts.append(value)
    return ScoreLimits(*counts)


def uses_separator(hf_config: HFConfig) -> bool:
    """Whether a pair is encoded with the tokenizer's separator; the deprecated use_pad_token wins, with a warning."""
    deprecated = hf_config.get("use_pad_token")
    if deprecated is not None:
        logger.warning("use_pad_token has been deprecated; please use use_sep_token instead.")
        return bool(deprecated)
    use_sep_token = hf_config.get("use_sep_token")
    return True if use_sep_token is None else bool(use_sep_token)


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Of a and b [hidden_size] float32 -> scalar."""
    import torch

    return torch.nn.functional.cosine_similarity(a, b, dim=0)


def max_similarity(query: Tensor, doc: Tensor) -> Tensor:
    """Sum of each query token's best product: query [num_query_tokens, dim], doc [num_doc_tokens, dim] -> scalar."""
    return (query @ doc.T).amax(dim=1).sum()
