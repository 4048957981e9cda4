"""The server under load: against the library called directly, FastAPI + sentence-transformers, and infinity-emb.

python bench/bench_server.py [--rounds N] [--contenders assay,fastapi-st,infinity] [--quick]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import checkpoints
import contender
import record
import server_report
import workload
from bench_rerank import silence
from live_server import exit_on_sigterm
from ours import Assay
from reference import max_abs_error
from server_contenders import STARTS, ServerContender, ServerSetup, start_all
from server_measure import (
    OFFLINE,
    ServerMeasurement,
    ServerWorkload,
    better,
    load_for,
    logits_of,
    sample_offline,
    sample_server,
    send,
)

NUM_DOCUMENTS, QUICK_DOCUMENTS = 256, 64
NUM_LATENCY_CALLS, QUICK_LATENCY_CALLS = 200, 30
GROUP_SIZE = 32
OPEN_SHARES = (0.3, 0.6)
"""Rates of the open loop, as shares of what the library does in one call on this machine."""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patience", type=float, default=20.0, help="seconds to wait for a quiet machine per turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contenders", default=",".join(STARTS), help="comma-separated, default: %(default)s")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_DOCUMENTS} documents, 1 round: a smoke test")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "assay-bench")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    args.contenders = args.contenders.split(",")
    unknown = set(args.contenders) - set(STARTS)
    if unknown:
        parser.error(f"--contenders: choose from {sorted(STARTS)}, got {sorted(unknown)}")
    if args.quick:
        args.rounds, args.patience = 1, 0.0
    return args


def closed_workloads(checkpoint: Path, *, is_quick: bool) -> list[ServerWorkload]:
    """One client with one pair at a time; many clients with one pair each; a few with a group each."""
    from transformers import AutoTokenizer

    words = workload.read_words(checkpoints.minilm_folder() / "vocab.txt")
    count = QUICK_DOCUMENTS if is_quick else NUM_DOCUMENTS
    batch, pair = workload.make_workloads(AutoTokenizer.from_pretrained(checkpoint), words, count)
    ones = [[document] for document in batch.documents]
    groups = [batch.documents[i : i + GROUP_SIZE] for i in range(0, count, GROUP_SIZE)]
    calls = QUICK_LATENCY_CALLS if is_quick else NUM_LATENCY_CALLS
    return [
        ServerWorkload(
            "one", f"1 client, 1 pair of {pair.pair_seqlens[0]} tokens", pair.query, [pair.documents], calls
        ),
        ServerWorkload("singles", "32 clients, 1 pair a request", batch.query, ones, 2 * count, concurrency=32),
        ServerWorkload("groups", "4 clients, 32 pairs a request", batch.query, groups, 2 * len(groups), concurrency=4),
    ]


def open_workloads(singles: ServerWorkload, pairs_per_s: float) -> list[ServerWorkload]:
    """Single pairs that arrive at random times, at shares of what the library does."""
    return [
        ServerWorkload(
            f"open{round(100 * share)}",
            f"single pairs arriving at {share * pairs_per_s:.0f}/s",
            singles.query,
            singles.groups,
            singles.num_requests,
            rate_hz=share * pairs_per_s,
        )
        for share in OPEN_SHARES
    ]


def tune(
    running: list[ServerContender], work: ServerWorkload, reference: contender.FloatArray, patience_s: float
) -> list[tuple[ServerContender, ServerMeasurement]]:
    """Per name the fastest setting for this workload, after a first load that warms it up and gives its scores."""
    chosen = []
    for name in dict.fromkeys(each.name for each in running):
        settings = [each for each in running if each.name == name]
        errors: dict[str, float] = {}
        marks: dict[str, float] = {}
        for each in settings:
            replies = send(load_for(each, work, keep_replies=True)).replies
            errors[each.settings] = max_abs_error(logits_of(replies, work.groups), reference)
            if len(settings) > 1:
                marks[each.settings] = better(work, sample_server(each, work, -1, patience_s))
        best = min(settings, key=lambda each: marks.get(each.settings, 0.0))
        tuning = {setting: abs(mark) for setting, mark in marks.items()}
        chosen.append((best, ServerMeasurement(name, work.name, best.settings, errors[best.settings], tuning)))
    return chosen


def run(
    args: argparse.Namespace, running: list[ServerContender], library: Assay, checkpoint: Path
) -> list[tuple[ServerWorkload, list[ServerMeasurement]]]:
    """All workloads: contenders and the library take turns, starting one place further each round."""
    results = []
    works = closed_workloads(checkpoint, is_quick=args.quick)
    while works:
        work = works.pop(0)
        reference = library.score(work.query, work.documents)
        entrants = tune(running, work, reference, args.patience)
        offline = ServerMeasurement(OFFLINE, work.name, library.settings, 0.0, {})
        turns: list[tuple[ServerContender | None, ServerMeasurement]] = [*entrants]
        if not work.rate_hz:
            turns.append((None, offline))
        for round_idx in range(args.rounds):
            shift = round_idx % len(turns)
            for each, measurement in turns[shift:] + turns[:shift]:
                if each is None:
                    sample = sample_offline(library, work, round_idx, args.patience)
                else:
                    sample = sample_server(each, work, round_idx, args.patience)
                measurement.samples.append(sample)
        measurements = [measurement for _, measurement in turns]
        results.append((work, measurements))
        print(server_report.format_workload(work, measurements) + "\n", flush=True)
        if work.name == "singles":
            works += open_workloads(work, offline.median("pairs_per_s"))
    return results


def main() -> None:
    """Start the servers, run, print, save."""
    args = parse_args()
    exit_on_sigterm()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    silence()
    checkpoint = checkpoints.checkpoint_folder("minilm", args.cache)
    setup = contender.Setup(checkpoint, args.cache / "minilm", args.threads, (32,), time.perf_counter)
    library = Assay(setup, "float32")
    start = time.perf_counter()
    running, skipped = start_all(args.contenders, ServerSetup(checkpoint, args.cache / "server-logs", args.threads))
    print(f"{len(running)} servers ready in {time.perf_counter() - start:.0f} s\n", flush=True)
    try:
        results = run(args, running, library, checkpoint)
    finally:
        for each in running:
            each.server.stop()
    header = record.facts("server", args.threads) | {"skipped": skipped}
    if not args.no_save and not args.quick:
        path = record.path_of("server-minilm", header)
        title = f"{header['machine']['cpu']}, {args.threads} threads, {header['date']}"
        record.write(path, header | server_report.as_json(results))
        server_report.write_plot(record.picture(path), title, results)


if __name__ == "__main__":
    main()
