"""Pooling tasks: their names, and what each kind of score asks of them."""

from __future__ import annotations

from typing import Final

POOLING_TASKS: Final = (
    "embed",
    "classify",
    "token_embed",
    "token_classify",
    "plugin",
    "embed&token_classify",
)

EMBED_TASKS: Final = ("embed", "token_embed")
CLASSIFY_TASKS: Final = ("classify", "token_classify")
TOKEN_TASKS: Final = ("token_embed", "token_classify")

REMOVED_TASKS: Final = {
    "score": "`score` task was removed; use `classify` instead.",
    "encode": "`encode` task was removed; use `token_embed` or `token_classify` instead.",
}

REMOVED_PARAMETER: Final = "Parameter `{}` was removed; use `use_activation` instead."

SCORE_KINDS: Final = {
    "embed": "bi-encoder",
    "classify": "cross-encoder",
    "token_embed": "late-interaction",
}
"""How `LLM.score` works under each active task; a task that is not here cannot score."""
