"""One request, whatever dialect it came in: what is asked of which model, and under which conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

AGGREGATIONS: Final = ("max", "mean", "first")

Scale: TypeAlias = Literal["model", "logit", "sigmoid", "softmax", "probability", "pipeline"]
"""What scores are: what the model's own activation gives; raw logits; a sigmoid or softmax of them; as "probability", a
sigmoid (one label, or several that do not exclude each other) or a softmax (several that do) whatever the model
declares; as "pipeline", the same but for regression, which stays raw."""


@dataclass(frozen=True, slots=True)
class LongInput:
    """Texts longer than the model are read in windows of tokens.

    stride: tokens from the start of one window to the start of the next; None puts them end to end.
    aggregate: what becomes of the windows' scores, "max", "mean" or "first", label by label.
    """

    stride: int | None = None
    aggregate: str = "max"


@dataclass(frozen=True, slots=True)
class Encode:
    """Prompts for one pooling task; task None is the model's active one. prompts: as `LLM.encode` takes them."""

    prompts: Any
    task: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """One conversation, rendered by the chat template into one prompt."""

    messages: list[dict[str, Any]]
    task: str | None = None
    add_generation_prompt: bool = False
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Pairs to score, 1:1, 1:N or N:N; the sides are what `LLM.score` takes.

    has_soft_limits: a token limit beyond what the model can read is no limit, rather than an error.
    """

    queries: Any
    documents: Any
    max_tokens_per_query: int = 0
    max_tokens_per_doc: int = 0
    has_soft_limits: bool = False
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The internal request. `reply` is what the dialect itself needs again when it formats the answer.

    scale "model" with use_activation None follows the model; use_activation False asks for logits.
    cut_long: cut what is too long (None: as the server does by default) where tokenization says nothing of it.
    cut_side: "left" keeps the end of what is cut, with its special tokens; None leaves it to the tokenizer.
    """

    work: Encode | Chat | Score
    model: str | None = None
    request_id: str | None = None
    priority: int = 0
    timeout_ms: int | None = None
    cache_salt: str | None = None
    use_activation: bool | None = None
    dimensions: int | None = None
    scale: Scale = "model"
    tokenization: Mapping[str, Any] = field(default_factory=dict)
    cut_long: bool | None = None
    cut_side: str | None = None
    long_input: LongInput | None = None
    reply: Any = None

    @property
    def aggregate(self) -> str:
        """What becomes of the scores of several windows."""
        return "max" if self.long_input is None else self.long_input.aggregate

    @property
    def num_characters(self) -> int:
        """Characters of all texts, as they came."""
        work = self.work
        if isinstance(work, Encode):
            return _characters(work.prompts)
        if isinstance(work, Score):
            return _characters(work.queries) + _characters(work.documents)
        return sum(_characters(message.get("content")) for message in work.messages)


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return _characters(value.get("content") if "content" in value else value.get("text"))
    if isinstance(value, list):
        return sum(_characters(item) for item in value if not isinstance(item, int))
    return 0
