"""What the calls return: one request output per prompt, with typed results inside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RequestError:
    """Why one request has no result: an HTTP-like code, a message, and whether trying again may help."""

    code: int
    message: str
    retryable: bool = False


@dataclass(eq=False)
class PoolingOutput:
    """data: float32 on the CPU; classify [num_labels], token_classify [num_tokens, num_labels], embed [hidden_size]."""

    data: Tensor

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PoolingOutput):
            return NotImplemented
        return self.data.shape == other.data.shape and bool((self.data == other.data).all())

    __hash__ = None  # type: ignore[assignment]


@dataclass(repr=False)
class ClassificationOutput:
    """probs [num_labels]: probabilities, or logits where the request switched the activation off.

    labels (ours): the label names in the order of probs, where the model has them.
    """

    probs: list[float]
    labels: Sequence[str | None] | None = field(default=None, compare=False)

    @staticmethod
    def from_base(pooling_output: PoolingOutput, labels: Sequence[str | None] | None = None) -> ClassificationOutput:
        """Raises ValueError unless the data is a vector."""
        if pooling_output.data.ndim != 1:
            raise ValueError("pooled_data should be a 1-D probability vector")
        return ClassificationOutput(pooling_output.data.tolist(), labels)

    @property
    def num_classes(self) -> int:
        """How many labels the model tells apart."""
        return len(self.probs)

    @property
    def label(self) -> str | None:
        """The name of the first largest entry of probs (ours); None where the model names no labels."""
        if not self.labels or not self.probs:
            return None
        return self.labels[self.probs.index(max(self.probs))]

    def __repr__(self) -> str:
        return f"ClassificationOutput(num_classes={self.num_classes})"


@dataclass
class ScoringOutput:
    """score: the relevance of one pair."""

    score: float

    @staticmethod
    def from_base(pooling_output: PoolingOutput) -> ScoringOutput:
        """Raises ValueError unless the data holds one number."""
        data = pooling_output.data
        if data.numel() != 1:
            raise ValueError("pooled_data should be a scalar score")
        return ScoringOutput(data.item())


@dataclass(repr=False)
class EmbeddingOutput:
    """embedding [hidden_size]."""

    embedding: list[float]

    @staticmethod
    def from_base(pooling_output: PoolingOutput) -> EmbeddingOutput:
        """Raises ValueError unless the data is a vector."""
        if pooling_output.data.ndim != 1:
            raise ValueError("pooled_data should be a 1-D embedding vector")
        return EmbeddingOutput(pooling_output.data.tolist())

    @property
    def hidden_size(self) -> int:
        """Length of the embedding."""
        return len(self.embedding)

    def __repr__(self) -> str:
        return f"EmbeddingOutput(hidden_size={self.hidden_size})"


class PoolingRequestOutput(Generic[T]):
    """The answer to one prompt.

    request_id: a decimal counter ("<id1>_<id2>" where a score compares two embeddings).
    prompt_token_ids: the token ids the model saw. num_cached_tokens: 0, nothing is cached between requests.
    error: set instead of a result where the caller asked for errors to be returned.
    """

    def __init__(
        self,
        request_id: str,
        outputs: T,
        prompt_token_ids: list[int],
        num_cached_tokens: int,
        finished: bool,
        *,
        error: RequestError | None = None,
    ) -> None:
        self.request_id = request_id
        self.outputs = outputs
        self.prompt_token_ids = prompt_token_ids
        self.num_cached_tokens = num_cached_tokens
        self.finished = finished
        self.error = error

    def _as(self, kind: type[Any], outputs: Any) -> Any:
        """The same request as an output of another class."""
        return kind(
            self.request_id, outputs, self.prompt_token_ids, self.num_cached_tokens, self.finished, error=self.error
        )

    def __repr__(self) -> str:
        error = "" if self.error is None else f", error={self.error!r}"
        return (
            f"{type(self).__name__}(request_id={self.request_id!r}, outputs={self.outputs!r}, "
            f"prompt_token_ids={self.prompt_token_ids!r}, num_cached_tokens={self.num_cached_tokens}, "
            f"finished={self.finished}{error})"
        )


class ClassificationRequestOutput(PoolingRequestOutput[ClassificationOutput]):
    """The answer of `LLM.classify` to one prompt."""

    @staticmethod
    def from_base(
        request_output: PoolingRequestOutput[PoolingOutput], labels: Sequence[str | None] | None = None
    ) -> ClassificationRequestOutput:
        """From the untyped output of the same request."""
        failed = request_output.error is not None
        outputs = ClassificationOutput([]) if failed else ClassificationOutput.from_base(request_output.outputs, labels)
        typed: ClassificationRequestOutput = request_output._as(ClassificationRequestOutput, outputs)
        return typed


class ScoringRequestOutput(PoolingRequestOutput[ScoringOutput]):
    """The answer of `LLM.score` to one pair."""

    @staticmethod
    def from_base(request_output: PoolingRequestOutput[PoolingOutput]) -> ScoringRequestOutput:
        """From the untyped output of the same request."""
        failed = request_output.error is not None
        outputs = ScoringOutput(0.0) if failed else ScoringOutput.from_base(request_output.outputs)
        typed: ScoringRequestOutput = request_output._as(ScoringRequestOutput, outputs)
        return typed


class EmbeddingRequestOutput(PoolingRequestOutput[EmbeddingOutput]):
    """The answer of `LLM.embed` to one prompt."""

    @staticmethod
    def from_base(request_output: PoolingRequestOutput[PoolingOutput]) -> EmbeddingRequestOutput:
        """From the untyped output of the same request."""
        failed = request_output.error is not None
        outputs = EmbeddingOutput([]) if failed else EmbeddingOutput.from_base(request_output.outputs)
        typed: EmbeddingRequestOutput = request_output._as(EmbeddingRequestOutput, outputs)
        return typed
