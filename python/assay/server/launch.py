"""Start to end of a server process: read the command line, load the models, serve, drain, leave with a status."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from assay.errors import AssayError, MissingExtra
from assay.niceness import call_nicer
from assay.server.command_line import parse

if TYPE_CHECKING:
    from assay.server.served import ModelTable
    from assay.server.settings import ServerSettings

logger = logging.getLogger(__name__)

SWITCH_INTERVAL_S: Final = 0.0005
"""How long a thread may keep Python's lock while others want it: the event loop answers health checks in time."""
DEFAULT_QUEUED_TOKENS: Final = 1_000_000
"""Requests that wait hold memory: without a bound a server that cannot keep up would grow until it dies."""
DONE, FAILED, WRONG_USE = 0, 1, 2


def main(arguments: Sequence[str], program: str) -> int:
    """Serve until told to stop. 0: stopped as asked; 1: could not start, or an engine died; 2: wrong use."""
    try:
        settings = parse(arguments, program)
    except AssayError as err:
        print(f"{program}: {err}", file=sys.stderr)
        return WRONG_USE
    try:
        return serve(settings)
    except (AssayError, OSError, TypeError, ValueError, RuntimeError) as err:
        if os.environ.get("ASSAY_TRACEBACK") == "1":
            raise
        print(f"{program}: {' '.join([str(err), *getattr(err, '__notes__', [])])}", file=sys.stderr)
        return FAILED


def serve(settings: ServerSettings) -> int:
    """Load what the settings name and serve it; the process's exit status."""
    try:
        from assay.server.app import create_app
        from assay.server.loop import StoppableServer, uvicorn_config
        from assay.server.spare_memory import trim_early
    except ImportError as err:
        raise MissingExtra(f"the server needs: pip install 'assay[server]' ({err})") from err
    from assay.server.logs import set_up_logs

    set_up_logs(settings.log_format, settings.log_level)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    trim_early()
    with ExitStack() as stack:
        # Threads that an engine starts are as nice as the one that makes it.
        models = call_nicer(settings.compute_niceness, lambda: load_models(settings, stack))
        deaths: list[str] = []
        server: Any = None

        def on_death(death: str) -> None:
            deaths.append(death)
            server.should_exit = True

        app = create_app(models, settings, on_death=on_death)
        state = app.state.server
        server = StoppableServer(uvicorn_config(app, settings), state.lifecycle)
        gc.collect()
        gc.freeze()  # what is loaded stays: no later collection walks it while a request waits
        if threading.current_thread() is threading.main_thread():  # where else handlers can be set
            signal.signal(signal.SIGHUP, lambda *_: state.keys.reload())
        server.run()
        logger.info("stopped")
        return FAILED if deaths or not server.started else DONE


def load_models(settings: ServerSettings, stack: ExitStack) -> ModelTable:
    """Every model and adapter the settings name, closed when `stack` is."""
    from assay.llm import LLM
    from assay.server.adapters import load_adapter
    from assay.server.served import ModelTable, ServedModel

    models = []
    for spec in settings.models:
        keywords = {"max_queued_tokens": DEFAULT_QUEUED_TOKENS, **spec.keywords}
        if settings.requests.chat_template is not None:
            template = settings.requests.chat_template
            keywords = {"chat_template": template, "score_template": template, **keywords}
        llm = stack.enter_context(LLM(spec.source, **keywords))
        models.append(ServedModel(llm, spec.names, source=spec.source))
    table = ModelTable(models)
    for adapter in settings.adapters:
        table.add(load_adapter(table, adapter))
    return table
