"""LoRA adapters of served models: those of the command line, and the routes that load and unload them at run time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from assay.errors import AssayError, ConfigError
from assay.lora.request import LoRARequest
from assay.server.body import parse_json, read_body
from assay.server.dialects import vllm_reply
from assay.server.dialects import vllm_schema as schema
from assay.server.dialects.parsing import parsed
from assay.server.endpoint import error_response
from assay.server.errors import refuse, scrubbed
from assay.server.served import ServedModel
from assay.server.settings import AdapterSpec

if TYPE_CHECKING:
    from starlette.requests import Request

    from assay.server.served import ModelTable
    from assay.server.state import ServerState

INVALID: Final = "InvalidUserInput"
_NUMBERS = itertools.count(1)


def load_adapter(models: ModelTable, spec: AdapterSpec) -> ServedModel:
    """An adapter of one of the models, to be served beside it; raises ConfigError or WeightsError."""
    base = _base_of(models, spec)
    request = LoRARequest(spec.name, next(_NUMBERS), spec.path, base_model_name=spec.base_model_name)
    return ServedModel(base.llm, [spec.name], source=spec.path, session=base.llm.load_adapter(request), base=base)


def _base_of(models: ModelTable, spec: AdapterSpec) -> ServedModel:
    """The model the adapter names, else the first that takes adapters."""
    takers = [model for model in models if model.session.adapters is not None]
    if spec.base_model_name is not None:
        takers = [model for model in takers if spec.base_model_name in model.names]
    if not takers:
        named = "" if spec.base_model_name is None else f" of the name {spec.base_model_name!r}"
        raise ConfigError(f"adapter {spec.name!r}: no served model{named} takes adapters (--enable-lora)")
    return takers[0]


class AdapterRoutes:
    """POST /v1/load_lora_adapter and /v1/unload_lora_adapter; one change at a time."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._changing = asyncio.Lock()

    async def load(self, request: Request) -> Response:
        """Serve the adapter in a folder, or a Hub repository, under a name."""
        return await self._answered(request, self._load)

    async def unload(self, request: Request) -> Response:
        """Serve it no longer; requests that are being worked on are answered."""
        return await self._answered(request, self._unload)

    async def _answered(self, request: Request, change: Callable[[Any], Awaitable[str]]) -> Response:
        try:
            self._state.lifecycle.check_accepting()
            raw = await read_body(request, self._state.settings.requests.max_body_bytes)
            body = await parse_json(raw)
            async with self._changing:
                return Response(f"Success: {await change(body)}", media_type="text/plain")
        except Exception as err:
            return error_response(vllm_reply.DIALECT, err, "changing adapters")

    async def _load(self, body: Any) -> str:
        form = parsed(schema.LoadAdapter, body)
        name, models = form.lora_name, self._state.models
        if not name or not form.lora_path:
            raise refuse("Both 'lora_name' and 'lora_path' must be provided.", kind=INVALID)
        if models.is_base(name):
            raise refuse(f"The lora adapter '{name}' conflicts with a served base model.", kind=INVALID)
        if not form.load_inplace and models.adapter(name) is not None:
            raise refuse(
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set "
                f"'load_inplace' to True.",
                kind=INVALID,
            )
        spec = AdapterSpec(name=name, path=form.lora_path, base_model_name=form.base_model_name)
        loop = asyncio.get_running_loop()
        try:
            adapted = await loop.run_in_executor(self._state.runner.threads, load_adapter, models, spec)
        except (AssayError, OSError) as err:
            if str(err).startswith("No adapter found"):
                message = f"Loading lora {name} failed: No adapter found for {form.lora_path}"
                raise refuse(message, status=404, kind="NotFoundError") from None
            raise refuse(f"Loading lora {name} failed: {scrubbed(str(err))}") from None
        models.add(adapted)
        return f"LoRA adapter '{name}' added successfully."

    async def _unload(self, body: Any) -> str:
        name = parsed(schema.UnloadAdapter, body).lora_name
        if not name:
            raise refuse("'lora_name' needs to be provided to unload a LoRA adapter.", kind=INVALID)
        if self._state.models.adapter(name) is None:
            raise refuse(f"The lora adapter '{name}' cannot be found.", status=404, kind="NotFoundError")
        self._state.models.remove(name)
        return f"LoRA adapter '{name}' removed successfully."
