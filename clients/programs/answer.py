"""The part that every client program shares: calls come in as JSON lines on standard input, answers go out likewise.

It runs in the client's own environment, so it uses the standard library alone.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Ask:
    """What to ask the server at `url`; which of the fields count depends on the call."""

    url: str
    model: str
    query: str = ""
    documents: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


Call = Callable[[Ask], Any]


def status_of(error: BaseException) -> int | None:
    """The HTTP status an exception carries, in the places where clients keep it; causes count."""
    seen: BaseException | None = error
    while seen is not None:
        for owner in (seen, getattr(seen, "response", None)):
            for name in ("status_code", "http_status", "status"):
                value = getattr(owner, name, None)
                if isinstance(value, int):
                    return value
        seen = seen.__cause__ or seen.__context__
    return None


def answer(calls: dict[str, Call], line: str) -> dict[str, Any]:
    """The answer to one line: {"ok": value}, or {"error": {"type", "status", "message"}} of what the client raised."""
    message = json.loads(line)
    call = calls[message.pop("call")]
    try:
        return {"ok": call(Ask(**message))}
    except Exception as err:
        kind = f"{type(err).__module__}.{type(err).__qualname__}"
        return {"error": {"type": kind, "status": status_of(err), "message": str(err)}}


def serve(calls: dict[str, Call], packages: list[str]) -> None:
    """Say which versions are here, then answer until standard input ends. Anything the client prints goes to stderr."""
    out, sys.stdout = sys.stdout, sys.stderr
    versions = {name: importlib.metadata.version(name) for name in packages}
    print(json.dumps({"versions": versions}), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(calls, line)), file=out, flush=True)
