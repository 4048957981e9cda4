"""uvicorn with our way of stopping: the first signal drains, the second one ends it."""

from __future__ import annotations

import logging
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from assay.server.joined_writes import JoiningProtocol

if TYPE_CHECKING:
    from assay.server.lifecycle import Lifecycle
    from assay.server.settings import ServerSettings

logger = logging.getLogger(__name__)


class StoppableServer(uvicorn.Server):
    """Stops taking requests at the first SIGTERM or SIGINT, and stops waiting for those inside at the second."""

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the signal handler."""
        if self.should_exit:
            self.force_exit = True
            return
        logger.info("stopping: finishing %d requests", self._lifecycle.num_in_flight)
        self._lifecycle.begin_drain()
        self.should_exit = True


def uvicorn_config(app: Any, settings: ServerSettings) -> uvicorn.Config:
    """uvicorn's settings from ours."""
    listen = settings.listen
    return uvicorn.Config(
        app,
        host=listen.host or "0.0.0.0",
        port=listen.port,
        uds=listen.uds,
        root_path=listen.root_path,
        ssl_keyfile=listen.ssl_keyfile,
        ssl_certfile=listen.ssl_certfile,
        ssl_ca_certs=listen.ssl_ca_certs,
        ssl_cert_reqs=listen.ssl_cert_reqs,
        timeout_keep_alive=listen.keep_alive_s,
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
        log_config=None,
        log_level=settings.log_level,
        access_log=False,
        http=JoiningProtocol,
        ws="none",
        server_header=False,
        date_header=False,
    )
