"""Does /health answer at once while long texts are tokenised? Its latency beside clients that send texts of 1 MB.

python bench/bench_server_health.py [--checks 2000] [--clients 4]
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import checkpoints
import record
import workload
from live_server import LiveServer, exit_on_sigterm
from load_generator import BlockingConnection, Load, encoded
from server_contenders import ServerSetup, start_assay
from server_measure import percentiles_ms

TEXT_BYTES = 1_000_000
HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
CHECK_EVERY_S = 0.005
LOADS = {
    "idle": None,
    "truncated": ("/classify", {"truncate_prompt_tokens": -1}, "input"),
    "whole": ("/tokenize", {}, "prompt"),
}
"""Path, fields and the field of the text: cut to the model's length before it is scored, or tokenised to its end."""


@dataclass(frozen=True, slots=True)
class HealthTimes:
    """Milliseconds of the checks beside one load, and how many of its requests were answered meanwhile."""

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


def beside(server: LiveServer, name: str, num_clients: int, num_checks: int, text: str) -> HealthTimes:
    """The checks, while clients send the load's request again and again."""
    done = threading.Event()
    answered = [0] * num_clients

    # Threads that wait in system calls: clients of a real server would not take its cores at all.
    def client(number: int, request: bytes) -> None:
        connection = BlockingConnection(server.port)
        while not done.is_set():
            status, reply = connection.send(request)
            if status != 200:
                raise RuntimeError(f"{name}: status {status}: {reply[:200]!r}")
            answered[number] += 1
        connection.close()

    load = LOADS[name]
    requests: list[bytes] = []
    if load is not None:
        path, fields, field = load
        requests = encoded(Load(server.port, path, [{**fields, field: text}], 1)) * num_clients
    with ThreadPoolExecutor(num_clients) as pool:
        clients = [pool.submit(client, number, request) for number, request in enumerate(requests)]
        try:
            seconds = check(server.port, num_checks)
        finally:
            done.set()
        for future in clients:
            future.result()
    return HealthTimes(name, *percentiles_ms(seconds), 1e3 * max(seconds), num_checks, sum(answered))


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
        "text_bytes": len(text.encode()),
    }
    document = header | {"results": [dataclasses.asdict(result) for result in results]}
    record.write(record.path_of("server-health-minilm", header), document, has_picture=False)


if __name__ == "__main__":
    main()
