"""The busy routes, found by one look at a table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound

from assay.server.auth import route_path
from assay.server.edge import RECORD

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from starlette.types import Receive, Scope, Send

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


class ExactRoutes(BaseRoute):
    """Routes by method and path. What does not match exactly is left to the routes behind it, 405 and HEAD included.

    The framework's own routes try one pattern after the other, and wrap every handler twice: a tenth of what a short
    request costs beside its computing.
    """

    def __init__(self, handlers: Mapping[tuple[str, str], Handler]) -> None:
        """handlers: by (method, path below the root path)."""
        self._handlers = dict(handlers)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Full or none."""
        if scope["type"] == "http" and (scope["method"], route_path(scope)) in self._handlers:
            return Match.FULL, {}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that matches."""
        path = route_path(scope)
        scope[RECORD]["route"] = path
        response = await self._handlers[scope["method"], path](Request(scope, receive, send))
        await response(scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> NoReturn:
        """These routes have no names."""
        raise NoMatchFound(name, path_params)
