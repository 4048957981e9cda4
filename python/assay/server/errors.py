"""From an exception to what a client is told: status, type, message, and nothing about this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from assay import errors

BAD_REQUEST, UNAVAILABLE, INTERNAL = "BadRequestError", "ServiceUnavailableError", "InternalServerError"
DRAIN_RETRY_S: Final = 5.0
"""What a stopping server tells clients to wait: its replacement should be up by then."""

MAX_ENTRIES: Final = 10
"""Entries of a schema failure that are spelled out."""
MAX_ECHO, MAX_ENTRY = 200, 1000
"""Characters of one echoed value, and of one whole entry."""
MAX_MESSAGE: Final = 4000
"""Characters of a message from further down, which may quote the request."""

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")
_TRACEBACK: Final = re.compile(r"(?m)^(Traceback \(most recent call last\):|\s*File \"[^\"]*\", line \d+.*)\n?")
_PATH: Final = re.compile(r"(?<![\w/.:<])(?:/[\w.+@-]+){2,}/?")


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong with a request, before a dialect puts it into its own form."""

    status: int
    kind: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None


class Refused(Exception):
    """Raised inside the server with the failure to report."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class NotFound(Exception):
    """The route does not exist for what is served: the framework's own 404."""


class ClientGone(Exception):
    """The client has closed the connection; nobody reads a reply."""


def refuse(
    message: str, *, status: int = 400, kind: str = BAD_REQUEST, param: str | None = None, retry_after_s: float = 0.0
) -> Refused:
    """An exception to raise for a request that is refused; its message is shown as it is."""
    return Refused(Failure(status, kind, message, param, retry_after_s or None))


def failure_of(err: BaseException, overload_status: int = 429) -> Failure:
    """The failure that an exception stands for; one that nobody expected says nothing of its cause."""
    if isinstance(err, Refused):
        return err.failure
    message = _clipped(scrubbed(_with_notes(err)), MAX_MESSAGE)
    if isinstance(err, errors.EngineDrainingError):
        return Failure(503, UNAVAILABLE, message, retry_after_s=DRAIN_RETRY_S)
    if isinstance(err, errors.OverloadedError):
        return Failure(overload_status, "OverloadedError", message, retry_after_s=max(err.retry_after_s, 0.001))
    if isinstance(err, errors.DeadlineExceededError):
        return Failure(408, "DeadlineExceededError", message, "timeout_ms")
    if isinstance(err, errors.EngineDeadError):
        return Failure(503, UNAVAILABLE, message, retry_after_s=DRAIN_RETRY_S)
    if isinstance(err, errors.NonFiniteError):
        return Failure(500, "NonFiniteError", message)
    if isinstance(err, errors.BatchMemoryError | MemoryError):
        return Failure(503, "OutOfMemoryError", message, retry_after_s=1.0)
    if isinstance(err, errors.ValidationError):
        return Failure(400, BAD_REQUEST, message, err.parameter)
    if isinstance(err, ValueError | TypeError | OverflowError) or _is_template_error(err):
        return Failure(400, BAD_REQUEST, message)
    if isinstance(err, RecursionError):
        return Failure(400, BAD_REQUEST, "The request is nested too deeply.")
    if isinstance(err, NotImplementedError | errors.MissingExtra):
        return Failure(501, "NotImplementedError", message)
    return Failure(500, INTERNAL, "Internal server error: the server's log says more.")


def _with_notes(err: BaseException) -> str:
    return " ".join([str(err).strip(), *getattr(err, "__notes__", [])])


def _is_template_error(err: BaseException) -> bool:
    from jinja2 import TemplateError

    return isinstance(err, TemplateError)


def scrubbed(message: str) -> str:
    """A message without memory addresses, traceback lines and file paths."""
    return _PATH.sub("<path>", _ADDRESS.sub("", _TRACEBACK.sub("", message)))


def schema_failure(entries: list[dict[str, Any]]) -> Failure:
    """The failure for a body that does not fit its schema: one line per entry, at most MAX_ENTRIES."""
    count = len(entries)
    lines = [f"{count} validation error{'s' if count > 1 else ''}:"]
    lines += [f"  {_entry(entry)}" for entry in entries[:MAX_ENTRIES]]
    if count > MAX_ENTRIES:
        lines.append(f"  ...and {count - MAX_ENTRIES} more errors")
    place = entries[0].get("loc", ()) if entries else ()
    return Failure(400, "Bad Request", "\n".join(lines), ".".join(map(str, place)) or None)


def _entry(entry: dict[str, Any]) -> str:
    shown = {name: _echo(value) if name == "input" else value for name, value in entry.items()}
    context = shown.get("ctx")
    if isinstance(context, dict):
        shown["ctx"] = {name: _echo(value) for name, value in context.items()}
    return _clipped(repr(shown), MAX_ENTRY)


def _echo(value: Any) -> Any:
    if isinstance(value, dict | list | tuple):
        return f"<{type(value).__name__} of {len(value)} items>"
    if isinstance(value, str | int | float | bool) or value is None:
        return _clipped(value, MAX_ECHO) if isinstance(value, str) else value
    return _clipped(str(value), MAX_ECHO)


def _clipped(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "..."
