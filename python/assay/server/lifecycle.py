"""A server's life: ready after a first real forward pass, draining when told to stop, over when an engine is dead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from assay.llm.session import CallOptions
from assay.server.errors import DRAIN_RETRY_S, UNAVAILABLE, refuse

if TYPE_CHECKING:
    from assay.engine import Job
    from assay.server.served import ModelTable, ServedModel

logger = logging.getLogger(__name__)

WATCH_S: Final = 0.5
"""How often the engines are looked at."""
PROBE_TIMEOUT_S: Final = 120.0


class Lifecycle:
    """The state that /health and /ready tell, and requests are admitted by."""

    def __init__(self, models: ModelTable) -> None:
        self._models = models
        self.is_draining = False
        self.has_answered = False
        self.num_in_flight = 0

    @property
    def death(self) -> str | None:
        """Why an engine no longer serves; None while all do."""
        for model in self._models:
            stats = model.engine.stats()
            if not stats.is_alive:
                return f"{model.name}: {stats.death or 'the engine is closed'}"
        return None

    @property
    def is_ready(self) -> bool:
        """Whether new requests are welcome and would be answered."""
        return self.has_answered and not self.is_draining and self.death is None

    def check_accepting(self) -> None:
        """Refuse new work while the server is stopping, or before it has started."""
        if self.is_draining:
            message, wait_s = "The server is stopping.", DRAIN_RETRY_S
        elif not self.has_answered:
            message, wait_s = "The server is starting.", 1.0
        else:
            return
        raise refuse(message, status=503, kind=UNAVAILABLE, retry_after_s=wait_s)

    def begin_drain(self) -> None:
        """Take no new requests; those that are being worked on go on."""
        self.is_draining = True

    async def probe(self) -> None:
        """Send one input through every model; only then is the server ready."""
        for model in self._models:
            future = model.engine.start(_probe_job(model)).future
            await asyncio.wait_for(asyncio.wrap_future(future), PROBE_TIMEOUT_S)
        self.has_answered = True

    async def watch(self, on_death: Callable[[str], None]) -> None:
        """Look at the engines until one is dead, then report it."""
        while True:
            death = self.death
            if death is not None and not self.is_draining:
                logger.critical("an engine has stopped: %s", death)
                on_death(death)
                return
            await asyncio.sleep(WATCH_S)


def _probe_job(model: ServedModel) -> Job:
    prompt: str | list[int] = [1] if model.session.renderer.tokenizer is None else "ready"
    options = CallOptions(tokenization_kwargs={"truncate_prompt_tokens": -1})
    return model.session.prepare_encode(model.task, [prompt], None, options).job
