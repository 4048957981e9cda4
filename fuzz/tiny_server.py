"""The server that is fuzzed: a tiny reranker, which answers every kind of request in a millisecond."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tiny_models
from live_server import LiveServer, assay_command, free_port

BUILD = Path(__file__).resolve().parents[1] / "build" / "fuzz"
NAME = "reranker"


@contextmanager
def tiny_server() -> Iterator[LiveServer]:
    """A running server whose log is under build/fuzz."""
    with tempfile.TemporaryDirectory(prefix="assay-fuzz-") as folder:
        model = tiny_models.make(Path(folder) / NAME, "Bert", "ForSequenceClassification", num_labels=1, seed=3)
        port = free_port()
        command = assay_command(model, port, "--served-model-name", NAME, "--disable-uvicorn-access-log")
        with LiveServer(command, port, BUILD / "server.log") as server:
            yield server
