"""What a caller asks of the engine, and what it gets back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from assay.errors import NonFiniteError
    from assay.forward import Runnable
    from assay.rendering import Renderable
    from assay.tokenize_options import TokenizeOptions

FIRST_CHUNK, LAST_CHUNK = 8, 128
"""Prompts of a chunk: few at first so that compute starts early, then doubling."""
CHUNK_CHARACTERS = 65_536
"""A chunk ends after so much text: some milliseconds of tokenising, so that other jobs are not held up for long."""
SAMPLE = 256
"""Prompts looked at to estimate a job's tokens."""
CHARACTERS_PER_TOKEN = 4
"""Of that estimate; the true count replaces it once a chunk is tokenised."""


@dataclass(slots=True)
class Job:
    """The prompts of one call and what is asked of each; the lists are as long as `prompts`, or None for defaults.

    priority: lower runs first, under the policy "priority". deadline: a time.monotonic() value after which what
    remains is dropped. cache_salt: of all prompts, or of each; cached results are shared with the same salt only.
    models: adapted models, of each prompt, to run instead of the engine's.
    """

    prompts: list[Renderable]
    options: TokenizeOptions
    use_activation: list[bool]
    dimensions: list[int | None] | None = None
    first_ones: list[int | None] | None = None
    priority: int = 0
    deadline: float | None = None
    cache_salt: str | list[str | None] | None = None
    models: list[Runnable | None] | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def salt(self, index: int) -> str | None:
        """The cache salt of one prompt."""
        return self.cache_salt[index] if isinstance(self.cache_salt, list) else self.cache_salt

    def estimated_tokens(self) -> float:
        """About how many tokens there are to compute, judged by a sample of the prompts."""
        prompts, options = self.prompts, self.options
        sample = prompts if len(prompts) <= SAMPLE else prompts[:: len(prompts) // SAMPLE]
        limit = options.max_length if options.truncate_to is None else options.truncate_to
        tokens = sum([min(limit, _about_tokens(prompt)) for prompt in sample])
        return tokens * len(prompts) / max(1, len(sample))

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Start and stop of the runs of prompts that are tokenised together."""
        start, size = 0, FIRST_CHUNK
        while start < len(self.prompts):
            stop, characters = start, 0
            while stop < min(len(self.prompts), start + size) and characters < CHUNK_CHARACTERS:
                characters += _size(self.prompts[stop])
                stop += 1
            yield start, stop
            start, size = stop, min(LAST_CHUNK, 2 * size)


@dataclass(slots=True)
class Result:
    """What became of one prompt: data, or the error of this prompt alone.

    num_tokens_before_truncation: None where a text so long was cut that it was not tokenised to its end.
    """

    index: int
    token_ids: list[int]
    data: Tensor | None
    error: NonFiniteError | None = None
    is_truncated: bool = False
    num_tokens_before_truncation: int | None = None


@dataclass(slots=True)
class Times:
    """Where the time of a job went, in seconds. Chunks are tokenised while others are computed: parts may overlap.

    queue_s: from the start to the end, less tokenising and computing.
    """

    tokenize_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0


def _size(prompt: Renderable) -> int:
    """Characters, or token ids."""
    return len(prompt[0]) + len(prompt[1]) if isinstance(prompt, tuple) else len(prompt)


def _about_tokens(prompt: Renderable) -> float:
    return len(prompt) if isinstance(prompt, list) else 2 + _size(prompt) / CHARACTERS_PER_TOKEN
