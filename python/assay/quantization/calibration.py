"""What the guard runs: the built-in texts, or the user's, as prompts of the model's own task."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from assay.errors import ConfigError

BUILT_IN: Final = Path(__file__).parent / "calibration.json"
DOCUMENTS_PER_QUERY: Final = 8
"""Every query meets its own three documents and those of the topics that follow, so that most pairs do not belong."""
LEAST: Final = 16
"""Fewer inputs than this say nothing about how often decisions change."""

Pair = tuple[str, str]


def built_in_pairs() -> list[Pair]:
    """128 pairs of a query and a document, a few of which answer it."""
    topics = _topics()
    pairs = []
    for index, topic in enumerate(topics):
        following = [text for other in topics[index:] + topics[:index] for text in other["documents"]]
        pairs += [(topic["query"], text) for text in following[:DOCUMENTS_PER_QUERY]]
    return pairs


def built_in_texts() -> list[str]:
    """64 single texts: the queries and the documents."""
    return [text for topic in _topics() for text in (topic["query"], *topic["documents"])]


def _topics() -> list[dict[str, Any]]:
    topics: list[dict[str, Any]] = json.loads(BUILT_IN.read_text(encoding="utf-8"))
    return topics


def given(data: str | os.PathLike[str] | Sequence[Any]) -> list[Any]:
    """The user's calibration prompts: a file with one text a line (a tab parts the two of a pair), or a list.

    Raises ConfigError for a file that cannot be read, and for fewer than LEAST prompts.
    """
    if isinstance(data, str | os.PathLike):
        try:
            lines = Path(data).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as err:
            raise ConfigError(f"quantization_data={os.fspath(data)!r}: {err}") from err
        prompts: list[Any] = [_line(line) for line in lines if line.strip()]
    elif isinstance(data, Sequence):
        prompts = list(data)
    else:
        raise ConfigError(f"quantization_data must be a file or a list of prompts, got {type(data).__name__}")
    if len(prompts) < LEAST:
        raise ConfigError(f"quantization_data must hold at least {LEAST} prompts, got {len(prompts)}")
    return prompts


def _line(line: str) -> str | Pair:
    first, tab, second = line.partition("\t")
    return (first, second) if tab else line
