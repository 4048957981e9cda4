"""`create_app`: served models and settings to an ASGI application."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import assay
from assay import ops
from assay.errors import ConfigError
from assay.server.adapters import AdapterRoutes
from assay.server.auth import OPEN_PATHS, AuthMiddleware, KeyRing
from assay.server.core_offers import CoreOffers
from assay.server.dialects.table import ROUTES
from assay.server.edge import RECORD, EdgeMiddleware, EdgeOptions
from assay.server.endpoint import Endpoint
from assay.server.exact_routes import ExactRoutes, Handler
from assay.server.info import Info
from assay.server.invocations import Invocations
from assay.server.lifecycle import Lifecycle
from assay.server.metrics import Metrics
from assay.server.openapi import page
from assay.server.runner import Runner
from assay.server.served import ModelTable, ServedModel
from assay.server.settings import ServerSettings
from assay.server.spare_memory import SpareMemory
from assay.server.state import ServerState
from assay.server.tokens import TOKEN_ROUTES, TokenEndpoint
from assay.server.tracing import Tracing

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from assay.server.settings import Access


def create_app(
    models: Iterable[ServedModel] | ModelTable,
    settings: ServerSettings | None = None,
    *,
    tracing: Tracing | None = None,
    on_death: Callable[[str], None] | None = None,
) -> FastAPI:
    """The application. `app.state.server` is its ServerState; on_death is told when an engine has stopped."""
    settings = settings or ServerSettings()
    table = models if isinstance(models, ModelTable) else ModelTable(models)
    state = ServerState(
        settings=settings,
        models=table,
        runner=Runner(settings.requests, nicer_by=settings.compute_niceness),
        metrics=Metrics(table),
        lifecycle=Lifecycle(table),
        offers=CoreOffers(ops.set_gives_way if settings.compute_niceness > 0 else _never),
        spare_memory=SpareMemory(ops.release_free_memory),
        keys=KeyRing(settings.access.api_keys, settings.access.api_key_file),
        tracing=tracing or Tracing.to_endpoint(settings.otlp_traces_endpoint),
    )

    state.metrics.in_flight.set_function(lambda: state.lifecycle.num_in_flight)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        life = asyncio.create_task(_live(state, on_death or (lambda death: None)))
        spare = asyncio.create_task(state.spare_memory.watch(state.runner.threads))
        yield
        state.lifecycle.begin_drain()
        life.cancel()
        spare.cancel()
        state.runner.close()

    shown: dict[str, Any] = {} if settings.show_docs else {"docs_url": None, "redoc_url": None, "openapi_url": None}
    app = _Application(
        title="assay",
        version=assay.__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        **shown,
    )
    app.state.server = state
    exact = _add_routes(app, state)
    _add_layers(app, exact, state, settings.access)
    return app


class _Application(FastAPI):
    """The framework behind layers and routes of our own."""

    front: ASGIApp
    """What sees a request first."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the start and the end of the server."""
        await self.front(scope, receive, send)

    async def framework(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The same without what is in front."""
        await super().__call__(scope, receive, send)


def _never(gives_way: bool) -> None:
    """Of a server whose threads are all equal."""


async def _live(state: ServerState, on_death: Callable[[str], None]) -> None:
    """Become ready, then keep an eye on the engines."""
    try:
        await state.lifecycle.probe()
    except Exception as err:
        on_death(f"the first forward pass failed: {err!r}")
        return
    await state.lifecycle.watch(on_death)


def _add_routes(app: FastAPI, state: ServerState) -> dict[tuple[str, str], Handler]:
    """Give the framework all routes; the busy ones, by method and path."""
    posts: dict[str, Handler] = {}
    for path, rows in ROUTES.items():
        handler = Endpoint(rows, state).__call__
        posts[path] = handler
        if path != "/" and not path.startswith("/v2/"):
            posts[f"/v1{path}"] = handler
    for path, works in TOKEN_ROUTES.items():
        posts[path] = posts[f"/v1{path}"] = TokenEndpoint(state, works).__call__
    posts["/invocations"] = Invocations(state).__call__
    if state.settings.changes_adapters:
        adapters = AdapterRoutes(state)
        posts["/v1/load_lora_adapter"], posts["/v1/unload_lora_adapter"] = adapters.load, adapters.unload
    info = Info(state)
    gets: dict[str, Handler] = {
        "/health": info.health,
        "/ping": info.health,
        "/ready": info.ready,
        "/version": info.version,
        "/load": info.load,
        "/metrics": info.metrics,
        "/v1/models": info.models,
        "/info": info.info,
    }
    if state.settings.tokenizer_info:
        gets["/tokenizer_info"] = info.tokenizer
    # Plain routes: the bodies are read and checked by hand, and the framework's machinery for arguments costs time.
    # They are tried in order: those that ask for signs of life come first.
    asked = {path: _named(path, handler) for path, handler in gets.items() if path in OPEN_PATHS}
    others = {path: _named(path, handler) for path, handler in gets.items() if path not in OPEN_PATHS}
    busy = {path: _named(path, handler) for path, handler in posts.items()}
    first = [Route(path, handler, methods=["GET"]) for path, handler in asked.items()]
    first += [Route(path, handler, methods=["POST"]) for path, handler in busy.items()]
    app.router.routes[:0] = first
    app.router.routes += [Route(path, handler, methods=["GET"]) for path, handler in others.items()]
    app.router.routes.append(Route("/ping", asked["/ping"], methods=["POST"]))
    app.openapi = lambda: page(app.title, app.version, [*posts, "/ping"], gets)  # type: ignore[method-assign]
    exact = {("GET", path): handler for path, handler in asked.items()}
    return exact | {("POST", path): handler for path, handler in busy.items()}


def _named(path: str, handler: Handler) -> Handler:
    """The handler, whose requests are counted under the path."""

    async def named(request: Request) -> Response:
        request.scope[RECORD]["route"] = path
        return await handler(request)

    return named


def _add_layers(app: _Application, exact: dict[tuple[str, str], Handler], state: ServerState, access: Access) -> None:
    """Innermost first: what comes later sees a request earlier."""
    for path in state.settings.middleware:
        layer = _imported(path)
        add: Any = app.add_middleware if inspect.isclass(layer) else app.middleware("http")
        add(layer)
    front: ASGIApp = ExactRoutes(exact, app.framework, app.user_middleware)
    front = AuthMiddleware(front, state.keys, access.open_paths)
    if access.allowed_origins:
        front = CORSMiddleware(
            front,
            allow_origins=access.allowed_origins,
            allow_methods=access.allowed_methods,
            allow_headers=access.allowed_headers,
            allow_credentials=access.allow_credentials,
        )
    options = EdgeOptions(state.settings.request_id_headers, state.settings.access_log)
    app.front = EdgeMiddleware(front, state.metrics, options)


def _imported(path: str) -> Any:
    """What --middleware names: `module.attribute`."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as err:
        raise ConfigError(f"--middleware {path!r} cannot be imported: {err}") from err
