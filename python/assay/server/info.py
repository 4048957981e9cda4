"""Routes that tell about the server: liveness, readiness, models, versions, load, metrics."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response

import assay
from assay.server.metrics import CONTENT_TYPE
from assay.tasks import EMBED_TASKS

if TYPE_CHECKING:
    from starlette.requests import Request

    from assay.server.served import ServedModel
    from assay.server.state import ServerState


class Info:
    """Handlers of GET routes; none of them waits for anything."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._created = int(time.time())

    async def health(self, request: Request) -> Response:
        """200 while every engine serves, 503 once one is dead. Also while the server is draining."""
        death = self._state.lifecycle.death
        return _json({"status": "ok" if death is None else "dead", "unix": time.time()}, 200 if death is None else 503)

    async def ready(self, request: Request) -> Response:
        """200 once every model has answered an input, until the server is told to stop."""
        is_ready = self._state.lifecycle.is_ready
        return _json({"ready": is_ready}, 200 if is_ready else 503)

    async def version(self, request: Request) -> Response:
        """The package's version."""
        return _json({"version": assay.__version__})

    async def load(self, request: Request) -> Response:
        """Requests being worked on, where load tracking is on."""
        lifecycle = self._state.lifecycle
        return _json({"server_load": lifecycle.num_in_flight if self._state.settings.load_tracking else 0})

    async def metrics(self, request: Request) -> Response:
        """Prometheus text."""
        return Response(self._state.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def models(self, request: Request) -> Response:
        """OpenAI's list: one card per served name."""
        models = self._state.models
        cards = [self._card(model, name) for model in (*models, *models.adapters) for name in model.names]
        return _json({"object": "list", "data": cards})

    def _card(self, model: ServedModel, name: str) -> dict[str, Any]:
        permission = {
            "id": f"modelperm-{uuid.uuid4().hex}",
            "object": "model_permission",
            "created": self._created,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "vllm",
            "root": model.source,
            "parent": None if model.parent is None else model.parent.name,
            "max_model_len": model.max_model_len if model.parent is None else None,
            "permission": [permission],
        }

    async def tokenizer(self, request: Request) -> Response:
        """The default model's tokenizer as its files describe it; served only where the settings say so."""
        hf = self._state.models.default.require_tokenizer().hf
        facts = {"tokenizer_class": type(hf).__name__, "chat_template": hf.chat_template, **hf.init_kwargs}
        return Response(orjson.dumps(facts, default=str), media_type="application/json")

    async def info(self, request: Request) -> Response:
        """GET /info of text-embeddings-inference, about the default model: every key its clients insist on."""
        model = self._state.models.default
        config = model.llm.llm_engine.vllm_config.scheduler_config
        names = {str(index): label for index, label in model.id2label.items()}
        maps = {"id2label": names, "label2id": {label: index for index, label in model.id2label.items()}}
        if model.task in EMBED_TASKS:
            kind: dict[str, Any] = {"embedding": {"pooling": model.session.model.pooling}}
        else:  # there is no word for a classifier of tokens: its labels are what it shares with one of texts
            kind = {"reranker" if model.can_score else "classifier": maps}
        return _json(
            {
                "model_id": model.source,
                "model_sha": None,
                "model_dtype": model.session.model.dtype,
                "served_model_name": model.name,
                "model_type": kind,
                "max_concurrent_requests": MANY,
                "max_input_length": model.max_model_len,
                "max_batch_tokens": config.max_batch_tokens,
                "max_batch_requests": config.max_batch_size,
                "max_client_batch_size": MANY,
                "auto_truncate": True,
                "tokenization_workers": config.tokenizer_threads,
                "version": assay.__version__,
                "sha": None,
                "docker_label": None,
            }
        )


MANY = 2**31 - 1
"""There is no limit, but a client wants a number."""


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status_code=status, media_type="application/json")
