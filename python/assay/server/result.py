"""One answer, whatever dialect it leaves in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay.server.served import ServedModel


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds a request spent in each stage."""

    tokenize_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Item:
    """The answer to one input.

    data: float32 tensor; classify [num_labels], token_classify [num_tokens, num_labels], embed [size], score [].
    num_tokens: what the model read, summed over the windows where there are several.
    original_tokens: the length before truncation, None where it was not counted.
    """

    data: Any
    num_tokens: int
    is_truncated: bool = False
    original_tokens: int | None = None
    num_windows: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The internal result. num_tokens: of all prompts that were run, which is what usage reports.

    score_kind: "logit", "sigmoid", "softmax", "cosine", ...: what the numbers are.
    """

    model: ServedModel
    name: str
    items: list[Item]
    num_tokens: int
    num_characters: int
    score_kind: str
    timing: Timing = Timing()

    @property
    def num_truncated(self) -> int:
        """How many items were cut."""
        return sum(item.is_truncated for item in self.items)
