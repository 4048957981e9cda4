"""Does /health answer at once while long texts are tokenised? Its latency beside clients that send texts of 1 MB.

python bench/bench_server_health.py [--checks 2000] [--clients 4]
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import checkpoints
import record
import workload
from live_server import LiveServer, exit_on_sigterm
from load_generator import BlockingConnection, Load, encoded
from server_contenders import ServerSetup, start_assay
from server_measure import percentiles_ms

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Event

TEXT_BYTES = 1_000_000
HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
CHECK_EVERY_S = 0.005
LOAD_NICENESS = 10
"""How much the clients that send long texts give way to the one that asks /health, and to the server."""
CLIENTS_START_S = 2.0
"""Until every client has imported what it needs and sends."""
CLIENTS_END_S = 60.0
"""How long the last request of a client may take."""
LOADS = {
    "idle": None,
    "truncated": ("/classify", {"truncate_prompt_tokens": -1}, "input"),
    "whole": ("/tokenize", {}, "prompt"),
}
"""Path, fields and the field of the text: cut to the model's length before it is scored, or tokenised to its end."""


@dataclass(frozen=True, slots=True)
class HealthTimes:
    """Milliseconds of the checks beside one load, and how many of its requests were answered."""

    load: str
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    num_checks: int
    num_answered: int


def long_text() -> str:
    """TEXT_BYTES of the benchmark's words."""
    words = workload.read_words(checkpoints.minilm_folder() / "vocab.txt")
    text = workload.make_text(words, TEXT_BYTES // 4, np.random.default_rng(3))
    return text[:TEXT_BYTES]


def check(port: int, num_checks: int) -> list[float]:
    """Seconds of each of `num_checks` questions to /health, one every CHECK_EVERY_S."""
    connection = BlockingConnection(port)
    seconds = []
    for _ in range(num_checks):
        start = time.perf_counter()
        status, _ = connection.send(HEALTH)
        seconds.append(time.perf_counter() - start)
        if status != 200:
            raise RuntimeError(f"/health answered {status}")
        time.sleep(CHECK_EVERY_S)
    connection.close()
    return seconds


def send_until(done: Event, port: int, request: bytes, answered: Queue[int]) -> None:
    """One client in a process of its own: the request again and again; puts how many were answered."""
    # What sends the load stands for other machines, and shall not be what the checks or the server wait for.
    os.nice(LOAD_NICENESS)
    connection = BlockingConnection(port)
    number = 0
    while not done.is_set():
        status, reply = connection.send(request)
        if status != 200:
            raise RuntimeError(f"status {status}: {reply[:200]!r}")
        number += 1
    connection.close()
    answered.put(number)


def beside(server: LiveServer, name: str, num_clients: int, num_checks: int, text: str) -> HealthTimes:
    """The checks, while clients send the load's request again and again."""
    load = LOADS[name]
    requests: list[bytes] = []
    if load is not None:
        path, fields, field = load
        requests = encoded(Load(server.port, path, [{**fields, field: text}], 1)) * num_clients
    context = multiprocessing.get_context("spawn")
    done, answered = context.Event(), context.Queue()
    clients = [
        context.Process(target=send_until, args=(done, server.port, request, answered), daemon=True)
        for request in requests
    ]
    for client in clients:
        client.start()
    try:
        if clients:
            time.sleep(CLIENTS_START_S)
        seconds = check(server.port, num_checks)
    finally:
        done.set()
    num_answered = 0
    for client in clients:
        client.join(CLIENTS_END_S)
        if client.exitcode != 0:
            raise RuntimeError(f"{name}: a client ended with exit status {client.exitcode}")
        num_answered += answered.get(timeout=CLIENTS_END_S)
    return HealthTimes(name, *percentiles_ms(seconds), 1e3 * max(seconds), num_checks, num_answered)


def main() -> None:
    """Run, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checks", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "assay-bench")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    exit_on_sigterm()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    checkpoint = checkpoints.checkpoint_folder("minilm", args.cache)
    text = long_text()
    results = []
    with start_assay(ServerSetup(checkpoint, args.cache / "server-logs", args.threads)).server as server:
        for name in LOADS:
            result = beside(server, name, args.clients, args.checks, text)
            results.append(result)
            print(
                f"{name:10s} p50 {result.p50_ms:6.2f}  p90 {result.p90_ms:6.2f}  p99 {result.p99_ms:6.2f}  "
                f"max {result.max_ms:6.2f} ms   {result.num_answered} long texts answered",
                flush=True,
            )
    if args.no_save:
        return
    header = record.facts("server-health", args.threads) | {
        "num_clients": args.clients,
        "load_niceness": LOAD_NICENESS,
        "text_bytes": len(text.encode()),
    }
    document = header | {"results": [dataclasses.asdict(result) for result in results]}
    record.write(record.path_of("server-health-minilm", header), document, has_picture=False)


if __name__ == "__main__":
    main()
