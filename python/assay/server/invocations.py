"""POST /invocations: SageMaker's one route for everything; the body tells what is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from assay.server.body import decoded
from assay.server.dialects import hf
from assay.server.dialects.table import INPUT_ROUTES, INVOCATIONS, ROUTES
from assay.server.dialects.vllm_pooling import POOLING
from assay.server.endpoint import Endpoint, can_run, wanted_dialect
from assay.server.errors import refuse

if TYPE_CHECKING:
    from starlette.requests import Request

    from assay.server.dialects.base import Operation
    from assay.server.state import ServerState


class Invocations(Endpoint):
    """The rows of every route in one."""

    def __init__(self, state: ServerState) -> None:
        super().__init__(INVOCATIONS, state)

    async def parse(self, raw: bytes) -> Any:
        """As on every route, but what is no JSON is told as vLLM tells it here."""
        try:
            return await decoded(raw)
        except orjson.JSONDecodeError as err:
            raise refuse(f"JSON decode error: {err}", kind="Bad Request") from None

    def choose(self, body: Any, request: Request) -> Operation:
        """The first operation whose keys are there and that the model can do."""
        operation = self._found(body, request)
        if operation is not hf.INVOCATION and isinstance(body, dict) and body.get("parameters"):
            raise refuse("parameters are read beside `inputs` only: pass their keys in the body", param="parameters")
        return operation

    def _found(self, body: Any, request: Request) -> Operation:
        rows = self.rows
        if isinstance(body, dict) and ("input" in body or "messages" in body):
            rows = ROUTES[INPUT_ROUTES.get(self._model_for(POOLING, body).task, "/pooling")]
        wanted = wanted_dialect(request, {row.operation.dialect.name for row in rows})
        rows = tuple(row for row in rows if wanted in (None, row.operation.dialect.name))
        for row in rows:
            if row.matches(body, request.headers) and can_run(row.operation, self._model_for(row.operation, body)):
                return row.operation
        if wanted is not None:
            return rows[-1].operation
        kinds = "classify (input or messages), rerank (query, documents), score (queries, documents), pooling, predict"
        raise refuse(f"Cannot find suitable handler for request. Expected one of: [{kinds}]")

    def _is_served(self) -> bool:
        """Every model does something."""
        return True
