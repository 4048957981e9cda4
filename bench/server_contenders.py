"""The servers that are compared, each in the settings worth trying, and how to start them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contender import Unavailable
from live_server import LiveServer, StartError, assay_command, free_port

BENCH = Path(__file__).resolve().parent
INFINITY_VENV = BENCH.parent / "build" / "bench-venv-infinity"
INFINITY_PACKAGE = "infinity-emb[torch,server]==0.0.78"
TORCH = "torch==2.13.0"
INSTALL_TIMEOUT_S = 1800


@dataclass(frozen=True, slots=True)
class ServerSetup:
    """What every server gets."""

    checkpoint: Path
    logs: Path
    num_threads: int


@dataclass(frozen=True, slots=True)
class ServerContender:
    """A server that runs; rerank_body turns a query and documents into its request for raw logits."""

    name: str
    settings: str
    server: LiveServer
    path: str
    rerank_body: Callable[[str, list[str]], dict[str, Any]]


def start_assay(setup: ServerSetup, dtype: str = "float32") -> ServerContender:
    """Our own server."""
    port = free_port()
    command = assay_command(setup.checkpoint, port, "--dtype", dtype, "--disable-uvicorn-access-log")
    env = {"ASSAY_NUM_THREADS": str(setup.num_threads), "OMP_NUM_THREADS": str(setup.num_threads)}
    server = LiveServer(command, port, setup.logs / "assay.log", env=env)

    def body(query: str, documents: list[str]) -> dict[str, Any]:
        return {"query": query, "documents": documents, "use_activation": False}

    return ServerContender("assay", dtype, server, "/rerank", body)


def start_sentence_transformers(setup: ServerSetup, max_batch: int, max_delay_ms: float) -> ServerContender:
    """FastAPI + CrossEncoder with dynamic batching."""
    port = free_port()
    script = str(BENCH / "sentence_transformers_server.py")
    settings = ["--threads", str(setup.num_threads), "--max-batch", str(max_batch), "--max-delay-ms", str(max_delay_ms)]
    command = [sys.executable, script, str(setup.checkpoint), "--port", str(port), *settings]
    env = {"OMP_NUM_THREADS": str(setup.num_threads), "TOKENIZERS_PARALLELISM": "true"}
    server = LiveServer(command, port, setup.logs / f"st-{max_batch}-{max_delay_ms:g}.log", env=env)

    def body(query: str, documents: list[str]) -> dict[str, Any]:
        return {"query": query, "documents": documents}

    return ServerContender("fastapi-st", f"batch {max_batch}, delay {max_delay_ms:g} ms", server, "/rerank", body)


def start_infinity(setup: ServerSetup, batch_size: int) -> ServerContender:
    """infinity-emb with its torch engine, in an environment of its own: it pins older packages."""
    python = install_infinity()
    port = free_port()
    command = [
        str(python.parent / "infinity_emb"),
        "v2",
        *("--model-id", str(setup.checkpoint), "--served-model-name", "m", "--engine", "torch", "--device", "cpu"),
        *("--dtype", "float32", "--batch-size", str(batch_size), "--no-bettertransformer", "--no-compile"),
        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"),
    ]
    env = {
        "OMP_NUM_THREADS": str(setup.num_threads),
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    server = LiveServer(command, port, setup.logs / f"infinity-{batch_size}.log", ready="/health", env=env)

    def body(query: str, documents: list[str]) -> dict[str, Any]:
        return {"model": "m", "query": query, "documents": documents, "raw_scores": True}

    return ServerContender("infinity", f"float32, torch engine, batch {batch_size}", server, "/rerank", body)


def install_infinity() -> Path:
    """Its interpreter; the packages are installed on first use. Raises Unavailable with pip's last words."""
    python = INFINITY_VENV / "bin" / "python"
    if (INFINITY_VENV / "bin" / "infinity_emb").exists():
        return python
    print(f"installing {INFINITY_PACKAGE}", flush=True)
    commands = [
        [sys.executable, "-m", "venv", str(INFINITY_VENV)],
        [str(python), "-m", "pip", "install", "-q", TORCH],
        [str(python), "-m", "pip", "install", "-q", TORCH, INFINITY_PACKAGE],
    ]
    for command in commands:
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as err:
            raise Unavailable(f"{' '.join(command[-2:])} took more than {INSTALL_TIMEOUT_S} s") from err
        if result.returncode:
            raise Unavailable(f"pip: {' '.join((result.stderr or result.stdout).split())[-300:]}")
    return python


Start = Callable[[ServerSetup], ServerContender]
STARTS: dict[str, list[Start]] = {
    "assay": [start_assay],
    "fastapi-st": [
        lambda setup: start_sentence_transformers(setup, 32, 0.0),
        lambda setup: start_sentence_transformers(setup, 8, 0.0),
        lambda setup: start_sentence_transformers(setup, 32, 2.0),
    ],
    "infinity": [lambda setup: start_infinity(setup, 32), lambda setup: start_infinity(setup, 8)],
}
"""Every setting runs as a server of its own; per workload the fastest of a name enters."""


def start_all(names: list[str], setup: ServerSetup) -> tuple[list[ServerContender], dict[str, str]]:
    """The servers that came up, and why others did not."""
    running: list[ServerContender] = []
    skipped: dict[str, str] = {}
    for name in names:
        for start in STARTS[name]:
            try:
                running.append(start(setup))
            except (Unavailable, StartError) as err:
                skipped[name] = str(err)
                print(f"skipping {name}: {err}", flush=True)
                break
    return running, skipped
