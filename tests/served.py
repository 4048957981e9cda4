"""A server in this process: its application on an event loop in a thread, called like a client calls it."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import httpx

import llms
from assay import LLM
from assay.server.app import create_app
from assay.server.served import ServedModel
from assay.server.settings import ServerSettings
from assay.server.state import ServerState

READY_S = 30.0


class Client:
    """Synchronous calls into an application that lives on a loop of its own."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._lifespan = app.router.lifespan_context(app)
        self.run(self._lifespan.__aenter__())
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
        self.run(self._until_ready())

    @property
    def state(self) -> ServerState:
        state: ServerState = self.app.state.server
        return state

    async def _until_ready(self) -> None:
        async with asyncio.timeout(READY_S):
            while not self.state.lifecycle.has_answered:
                await asyncio.sleep(0.005)

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def post(self, path: str, body: Any = None, **kwargs: Any) -> httpx.Response:
        """A JSON body, or `content=` with a JSON content type unless `headers=` says otherwise."""
        if body is not None:
            kwargs["json"] = body
        else:
            kwargs["headers"] = {"content-type": "application/json", **kwargs.get("headers", {})}
        response: httpx.Response = self.run(self.http.post(path, **kwargs))
        return response

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        response: httpx.Response = self.run(self.http.get(path, **kwargs))
        return response

    def ok(self, path: str, body: Any, **kwargs: Any) -> Any:
        """The JSON of a reply that must be a 200."""
        response = self.post(path, body, **kwargs)
        assert response.status_code == 200, response.text
        return response.json()

    def error(self, path: str, body: Any, status: int = 400, **kwargs: Any) -> dict[str, Any]:
        """The error object of a reply that must have this status."""
        response = self.post(path, body, **kwargs)
        assert response.status_code == status, response.text
        error: dict[str, Any] = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["code"] == status
        return error

    def close(self) -> None:
        self.run(self.http.aclose())
        self.run(self._lifespan.__aexit__(None, None, None))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@contextmanager
def serving(models: LLM | dict[str, LLM], settings: ServerSettings | None = None, **kwargs: Any) -> Iterator[Client]:
    """A server over loaded models: one of the name "m", or several by name."""
    named = models if isinstance(models, dict) else {"m": models}
    client = Client(create_app([ServedModel(llm, [name]) for name, llm in named.items()], settings, **kwargs))
    try:
        yield client
    finally:
        client.close()


@cache
def shared_client(num_labels: int = 3, head: str = llms.CLASSIFIER) -> Client:
    """A server with default settings over a shared model, started once per test run."""
    llm = llms.shared(head, num_labels)
    client = Client(create_app([ServedModel(llm, ["m", "alias"])]))
    atexit.register(client.close)
    return client


def scores(reply: dict[str, Any]) -> Sequence[float]:
    """Scores of a /score reply, in order."""
    return [item["score"] for item in reply["data"]]


def usage_of(num_tokens: int) -> dict[str, Any]:
    """What a reply that read so many tokens has under `usage`, in the long form."""
    return {
        "prompt_tokens": num_tokens,
        "total_tokens": num_tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }
