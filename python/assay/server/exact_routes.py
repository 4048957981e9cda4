"""The busy routes, found by one look at a table in front of the framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from fastapi.exception_handlers import http_exception_handler
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from assay.server.auth import route_path

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


class ExactRoutes:
    """Routes by method and path. What does not match exactly is the framework's, 405 and HEAD included.

    The framework passes a request through eight layers of its own, tries one pattern after the other, and wraps every
    handler twice: a seventh of what a short request costs the event loop.
    """

    def __init__(
        self, handlers: Mapping[tuple[str, str], Handler], framework: ASGIApp, layers: Sequence[object]
    ) -> None:
        """handlers: by (method, path below the root path). layers: those that somebody has added to the framework.

        While there are any, every request is the framework's, so that they see it.
        """
        self._handlers = dict(handlers)
        self._framework = framework
        self._layers = layers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the start and the end of the server."""
        path = route_path(scope) if scope["type"] == "http" else ""
        handler = self._handlers.get((scope.get("method", ""), path))
        if handler is None or self._layers:
            await self._framework(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await handler(request)
        except HTTPException as err:
            response = await http_exception_handler(request, err)
        await response(scope, receive, send)
