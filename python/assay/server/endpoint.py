"""What happens to one inference request: read, recognise, check, run, write - or report why not."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from assay.server.body import LARGE_BODY, parse_json, read_body
from assay.server.core_offers import SHORT_BODY
from assay.server.dialects.base import Operation, Payload, Row, Stamp
from assay.server.edge import RECORD
from assay.server.errors import ClientGone, Failure, NotFound, Refused, failure_of, refuse
from assay.server.headers import reply_headers
from assay.server.runner import MANY_RESULTS
from assay.server.served import asked_name

if TYPE_CHECKING:
    from starlette.requests import Request

    from assay.server.dialects.base import Dialect
    from assay.server.request import Call
    from assay.server.result import Answer
    from assay.server.served import ServedModel
    from assay.server.state import ServerState

logger = logging.getLogger(__name__)

DIALECT_HEADER: Final = "x-assay-dialect"
CLIENT_CLOSED_REQUEST: Final = 499
"""What the log says of a request whose client went away; nobody receives it."""


class Endpoint:
    """One route: its rows, and the steps they share."""

    def __init__(self, rows: Sequence[Row], state: ServerState) -> None:
        self.rows = tuple(rows)
        self._state = state

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        start = time.perf_counter()
        state, operation, model = self._state, self.rows[-1].operation, None
        weight, raw = 1, b""
        state.offers.add(weight)
        state.lifecycle.num_in_flight += 1
        try:
            with state.tracing.span(operation.name, request.headers) as span:
                state.lifecycle.check_accepting()
                raw = await read_body(request, state.settings.requests.max_body_bytes)
                if len(raw) > SHORT_BODY:
                    weight += 1
                    state.offers.add(1)
                body = await self.parse(raw)
                operation = self.choose(body, request)
                model = self._model_for(operation, body)
                self._check(operation, model)
                is_large = len(raw) >= LARGE_BODY
                call = await self._parsed(operation, body, is_large)
                answer = await state.runner.run(call, model, request.receive, is_large=is_large)
                span.set_attribute("assay.num_tokens", answer.num_tokens)
                span.set_attribute("assay.num_items", len(answer.items))
                return await self._reply(request, operation, call, answer, start)
        except NotFound:
            raise HTTPException(404) from None
        except ClientGone:
            state.metrics.cancelled.inc()
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        except Exception as err:
            if model is None and not self._is_served():
                raise HTTPException(404) from None
            return self._failed(request, operation, model, err)
        finally:
            state.offers.add(-weight)
            state.spare_memory.note(len(raw))
            state.lifecycle.num_in_flight -= 1

    async def parse(self, raw: bytes) -> Any:
        """The value of a body; Refused where it is no JSON."""
        return await parse_json(raw)

    def choose(self, body: Any, request: Request) -> Operation:
        """The operation of the first row that matches, of those of one dialect where a header names it."""
        wanted = wanted_dialect(request, {row.operation.dialect.name for row in self.rows})
        rows = [row for row in self.rows if wanted in (None, row.operation.dialect.name)]
        return next((row for row in rows if row.matches(body, request.headers)), rows[-1]).operation

    def _model_for(self, operation: Operation, body: Any) -> ServedModel:
        """The model the body names, else the first that can do what is asked."""
        models = self._state.models
        name = body.get("model") if isinstance(body, dict) and not operation.dialect.ignores_model else None
        if isinstance(name, str) and asked_name(name) is not None:  # anything else is the schema's to refuse
            return models.find(name)
        return next((model for model in models if can_run(operation, model)), models.default)

    def _check(self, operation: Operation, model: ServedModel) -> None:
        try:
            if operation.check is not None:
                operation.check(model)
        except NotFound:
            if not self._is_served():
                raise
            raise refuse(f"The model `{model.name}` does not support this route.", param="model") from None

    def _is_served(self) -> bool:
        """Whether the route exists: where no model answers it, it does not, whatever the body says."""
        models = self._state.models
        return any(exists_for(self.rows[-1].operation, model) for model in (*models, *models.adapters))

    async def _parsed(self, operation: Operation, body: Any, is_large: bool) -> Call:
        policy = self._state.settings.requests
        if not is_large:
            return operation.parse(body, policy)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._state.runner.threads, operation.parse, body, policy)

    async def _reply(
        self, request: Request, operation: Operation, call: Call, answer: Answer, start: float
    ) -> Response:
        written = time.perf_counter()
        stamp = Stamp(request.headers.get("x-request-id") or call.request_id or uuid.uuid4().hex, int(time.time()))
        if len(answer.items) > MANY_RESULTS:
            loop = asyncio.get_running_loop()
            payload = await loop.run_in_executor(self._state.runner.threads, _written, operation, call, answer, stamp)
        else:
            payload = _written(operation, call, answer, stamp)
        now = time.perf_counter()
        headers = reply_headers(answer, now - start)
        headers.update(payload.headers or {})
        # Counted once the reply is on its way: the client need not wait for that.
        asyncio.get_running_loop().call_soon(self._state.metrics.answered, answer, now - start, now - written)
        request.scope[RECORD].update(
            model=answer.model.name,
            request_id=stamp.request_id[:200],
            items=len(answer.items),
            tokens=answer.num_tokens,
            dialect=operation.dialect.name,
        )
        return Response(payload.body, headers=headers, media_type=payload.media_type)

    def _failed(self, request: Request, operation: Operation, model: ServedModel | None, err: Exception) -> Response:
        failure = failure_of(err, self._state.settings.requests.overload_status)
        if failure.status >= 500:
            logger.error("%s failed: %s", operation.name, failure.kind, exc_info=err)
        self._state.metrics.refused(model, failure.kind)
        request.scope[RECORD].update(error=failure.kind, **({} if model is None else {"model": model.name}))
        return failure_response(operation.dialect, failure)


def wanted_dialect(request: Request, known: Collection[str]) -> str | None:
    """The dialect that a header names, None where there is no such header; Refused for one that is not `known`."""
    wanted = request.headers.get(DIALECT_HEADER)
    if wanted is None or wanted.lower() in known:
        return wanted and wanted.lower()
    names = ", ".join(sorted(known))
    raise refuse(f"{DIALECT_HEADER}: this route speaks {names}, got {wanted[:100]!r}", param=DIALECT_HEADER)


def exists_for(operation: Operation, model: ServedModel) -> bool:
    """Whether a route with this operation exists for a model, be it only to say why it does not work."""
    try:
        if operation.check is not None:
            operation.check(model)
    except NotFound:
        return False
    except Refused:
        pass
    return True


def can_run(operation: Operation, model: ServedModel) -> bool:
    """Whether a model can do it."""
    try:
        if operation.check is not None:
            operation.check(model)
    except (NotFound, Refused):
        return False
    return True


def failure_response(dialect: Dialect, failure: Failure) -> Response:
    """A failure in the form of the dialect."""
    status, content = dialect.fail(failure)
    headers = {}
    if failure.retry_after_s is not None:
        # Whole seconds for the standard header; openai's clients also read milliseconds.
        headers["retry-after"] = str(math.ceil(failure.retry_after_s))
        headers["retry-after-ms"] = str(math.ceil(1e3 * failure.retry_after_s))
    return Response(orjson.dumps(content), status_code=status, headers=headers, media_type="application/json")


def error_response(dialect: Dialect, err: Exception, doing: str) -> Response:
    """The reply to a request that needs no model call and failed while `doing` it."""
    if isinstance(err, ClientGone):
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    failure = failure_of(err)
    if failure.status >= 500:
        logger.error("%s failed", doing, exc_info=err)
    return failure_response(dialect, failure)


def _written(operation: Operation, call: Call, answer: Answer, stamp: Stamp) -> Payload:
    reply = operation.format(call, answer, stamp)
    return reply if isinstance(reply, Payload) else Payload(orjson.dumps(reply))
