"""A limit for texts that become tokens to their end, whatever the model takes."""

from __future__ import annotations

from typing import Final

from assay.server.errors import refuse

MAX_CHARS: Final = 8_000_000
"""Of one such text. While it is encoded it takes some hundred bytes a character: more than its body, by far."""


def bounded(text: str, what: str, param: str) -> str:
    """`text`; one that would take more memory than a request should is refused, as a body that is too large is."""
    if len(text) > MAX_CHARS:
        raise refuse(f"{what} must have at most {MAX_CHARS} characters, got {len(text)}", status=413, param=param)
    return text
