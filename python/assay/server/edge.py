"""The outermost layer: paths as routes know them, request ids, and one line of log per request."""

from __future__ import annotations

import logging
import re
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from assay.server.auth import route_path

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from assay.server.metrics import Metrics

access_logger = logging.getLogger("assay.access")

RECORD: Final = "assay.record"
"""Key of a request's scope under which handlers leave the route and what is worth logging; never a text."""
QUIET: Final = frozenset(("/health", "/ping", "/ready", "/metrics", "/load", "/version"))
"""Routes that are asked so often that logging them would hide the rest."""
_SLASHES: Final = re.compile(r"/{2,}")


@dataclass(frozen=True, slots=True)
class EdgeOptions:
    """request_id_headers: every reply carries X-Request-Id, and not only where the request brought one."""

    request_id_headers: bool = False
    access_log: bool = True


class EdgeMiddleware:
    """Sees every request first and every reply last."""

    def __init__(self, app: ASGIApp, metrics: Metrics, options: EdgeOptions) -> None:
        self._app = app
        self._metrics = metrics
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        record: dict[str, Any] = {}
        scope[RECORD] = record
        scope["path"] = _normal(scope["path"])
        request_id = self._request_id(scope)
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if request_id is not None:
                    message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            self._report(scope, status, time.perf_counter() - start, record)

    def _request_id(self, scope: Scope) -> bytes | None:
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                return bytes(value)
        return uuid.uuid4().hex.encode() if self._options.request_id_headers else None

    def _report(self, scope: Scope, status: int, seconds: float, record: dict[str, Any]) -> None:
        route = record.pop("route", "")
        self._metrics.http.labels(route=route, method=_method(scope), status=str(status)).inc()
        if self._options.access_log and route not in QUIET:
            facts = {"method": scope["method"], "path": route or route_path(scope)[:200], "status": status}
            access_logger.info("request", extra={"facts": {**facts, "ms": round(1e3 * seconds, 3), **record}})


def _method(scope: Scope) -> str:
    method = str(scope["method"])
    return method if method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH") else "other"


def _normal(path: str) -> str:
    """Double slashes (a base URL that ends in one) and a trailing slash make no difference."""
    if "//" in path:
        path = _SLASHES.sub("/", path)
    return path[:-1] if len(path) > 1 and path.endswith("/") else path
