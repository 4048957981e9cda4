"""Does the server's memory stay where it is? Resident memory over many requests of random length.

python bench/bench_server_memory.py [--requests 100000] [--clients 8]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import checkpoints
import record
import workload
from live_server import LiveServer, exit_on_sigterm
from load_generator import Load, Times
from plot import OUR_COLOUR
from server_contenders import ServerSetup, start_assay
from server_measure import send

NUM_BODIES = 4000
MEAN_LOG_WORDS, SIGMA_LOG_WORDS, MAX_WORDS = 2.7, 1.1, 450
"""Log-normal lengths: a median of 15 words, one text in a hundred above 190."""
MAX_DOCUMENTS = 2
SAMPLE_S = 1.0
EARLY, LATE = (0.1, 0.2), (0.9, 1.0)
"""Parts of the run that are compared; before them the server still warms up."""


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Resident memory at one moment."""

    seconds: float
    rss_bytes: int


def bodies(seed: int = 5) -> list[dict[str, Any]]:
    """Rerank requests of one to MAX_DOCUMENTS texts of random length."""
    rng = np.random.default_rng(seed)
    words = workload.read_words(checkpoints.minilm_folder() / "vocab.txt")

    def text() -> str:
        count = int(np.clip(rng.lognormal(MEAN_LOG_WORDS, SIGMA_LOG_WORDS), 1, MAX_WORDS))
        return workload.make_text(words, count, rng)

    found = []
    for _ in range(NUM_BODIES):
        documents = [text() for _ in range(rng.integers(1, MAX_DOCUMENTS + 1))]
        found.append({"query": text()[:100], "documents": documents, "truncate_prompt_tokens": -1})
    return found


def watch(server: LiveServer, done: threading.Event, samples: list[MemorySample]) -> None:
    """Weigh the server once a second."""
    start = time.perf_counter()
    while not done.is_set():
        samples.append(MemorySample(time.perf_counter() - start, server.rss_bytes))
        done.wait(SAMPLE_S)


def run(server: LiveServer, num_requests: int, num_clients: int) -> tuple[Times, list[MemorySample]]:
    """The whole load, and what the server weighed meanwhile."""
    samples: list[MemorySample] = []
    done = threading.Event()
    watcher = threading.Thread(target=watch, args=(server, done, samples), daemon=True)
    watcher.start()
    try:
        load = Load(server.port, "/rerank", bodies(), num_requests, concurrency=num_clients, shuffle_seed=1)
        times = send(load)
    finally:
        done.set()
        watcher.join()
    return times, samples


def part(samples: list[MemorySample], ends: tuple[float, float]) -> float:
    """Median resident memory in MiB over a part of the run."""
    first, last = (int(end * len(samples)) for end in ends)
    return statistics.median(sample.rss_bytes for sample in samples[first : last or None]) / 2**20


def write_plot(path: Path, title: str, samples: list[MemorySample]) -> None:
    """Memory over time, from zero."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3))
    axes.plot([s.seconds for s in samples], [s.rss_bytes / 2**20 for s in samples], color=OUR_COLOUR)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("resident memory, MiB")
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Run, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "assay-bench")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    exit_on_sigterm()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    checkpoint = checkpoints.checkpoint_folder("minilm", args.cache)
    with start_assay(ServerSetup(checkpoint, args.cache / "server-logs", args.threads)).server as server:
        times, samples = run(server, args.requests, args.clients)
    early, late = part(samples, EARLY), part(samples, LATE)
    summary = {
        "num_requests": args.requests,
        "num_clients": args.clients,
        "wall_s": times.wall_s,
        "requests_per_s": args.requests / times.wall_s,
        "early_mib": early,
        "late_mib": late,
        "growth_mib": late - early,
    }
    print(
        f"{args.requests} requests in {times.wall_s:.0f} s; resident memory {early:.1f} MiB after a tenth of them, "
        f"{late:.1f} MiB at the end: {late - early:+.1f} MiB"
    )
    if args.no_save:
        return
    header = record.facts("server-memory", args.threads)
    path = record.path_of("server-memory-minilm", header)
    title = f"{args.requests} requests of random length, {header['machine']['cpu']}, {header['date']}"
    record.write(path, header | summary | {"samples": [[round(s.seconds, 2), s.rss_bytes] for s in samples]})
    write_plot(record.picture(path), title, samples)


if __name__ == "__main__":
    main()
