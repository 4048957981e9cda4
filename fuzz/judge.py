"""What a reply to a hostile body may look like."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def complaint(status: int, content_type: str, body: bytes) -> str | None:
    """What is wrong with a reply, None if nothing: no 5xx, JSON that parses strictly, an error that says something."""
    if status >= 500:
        return f"status {status}"
    if not content_type.startswith("application/json"):
        return None if status < 400 or body else f"status {status} without a word"
    try:
        reply: Any = json.loads(body, parse_constant=_refuse)
    except ValueError as err:
        return f"status {status} with a body that does not parse: {err}"
    if status >= 400 and not (isinstance(reply, dict) and (reply.get("error") or reply.get("detail"))):
        return f"status {status} without an error message"
    return None
