"""One pair and one short pair at a time on a CPU: assay against sentence-transformers and OpenVINO, p50 and p90.

python bench/bench_latency.py [--calls N] [--rounds N] [--threads N] [--quick] [--no-save]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import checkpoints
import contender
import machine
import measure
import ours
import peers
import record
import report
import workload
from bench_rerank import CLOCKS, silence
from reference import reference_logits

PAIR_TOKENS = (110, 16)
CONTENDERS = ("st-f32", "openvino-f32", "openvino-auto", "assay-f32", "assay-bf16")
LOADERS = {name: (peers.LOADERS | ours.LOADERS)[name] for name in CONTENDERS}
QUERY_WORDS = 3


def make_pairs(checkpoint: Path) -> list[workload.Workload]:
    """One pair per length; a short query leaves the short pair something to score."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    words = workload.read_words(checkpoints.minilm_folder() / "vocab.txt")
    rng = np.random.default_rng(checkpoints.SEED)
    query = workload.make_text(words, QUERY_WORDS, rng)
    overhead = len(tokenizer(query, "")["input_ids"])
    pairs = []
    for num_tokens in PAIR_TOKENS:
        text = workload.make_text(words, num_tokens, rng)
        # Cut inside a word, a text may tokenise to one more than asked for.
        cuts = [workload.cut_to_tokens(tokenizer, text, num_tokens - overhead - less) for less in (0, 1)]
        document = next((cut for cut in cuts if len(tokenizer(query, cut)["input_ids"]) == num_tokens), cuts[0])
        seqlens = workload.pair_seqlens(tokenizer, query, [document])
        pairs.append(workload.Workload(f"pair-{num_tokens}", query, [document], seqlens))
    return pairs


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(checkpoints.BUILDERS), default="minilm")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calls", type=int, default=50, help="calls per contender, pair and round")
    parser.add_argument("--rounds", type=int, default=5, help="undisturbed rounds wanted; at most twice as many run")
    parser.add_argument("--patience", type=float, default=20.0, help="seconds to wait for a quiet machine per turn")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="comma-separated, default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="10 calls, 2 rounds: a smoke test")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "assay-bench")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    args.contenders = args.contenders.split(",")
    unknown = set(args.contenders) - set(LOADERS)
    if unknown:
        parser.error(f"--contenders: choose from {sorted(LOADERS)}, got {sorted(unknown)}")
    args.max_rounds = 2 * args.rounds
    if args.quick:
        args.calls, args.rounds, args.max_rounds, args.patience = 10, 2, 2, 0.0
    return args


def run(args: argparse.Namespace, pairs: list[workload.Workload], checkpoint: Path) -> dict[str, Any]:
    """Every contender on every pair in turns; the measurements, and who was skipped and why."""
    cache = args.cache / args.model
    reference = {pair.name: reference_logits(checkpoint, pair, cache) for pair in pairs}
    setup = contender.Setup(checkpoint, cache, args.threads, (1,), CLOCKS["wall"])
    entrants: list[measure.Entrant] = []
    skipped: dict[str, str] = {}
    for label in args.contenders:
        try:
            candidates = [c for c in LOADERS[label](setup) if "THROUGHPUT" not in c.settings]
        except (contender.Unavailable, ImportError) as err:
            skipped[label] = str(err)
            print(f"skipping {label}: {err}", flush=True)
            continue
        for pair in pairs:
            expected = reference[pair.name]
            entrants.append(measure.enter(label, candidates, pair, expected, args.calls, setup.clock, args.patience))
    measure.run_rounds(entrants, args.rounds, args.max_rounds, args.patience)
    return {"measurements": [entrant.measurement for entrant in entrants], "skipped": skipped}


def percentiles(measurement: measure.Measurement) -> tuple[float, float]:
    """p50 and p90 of the reported calls, in milliseconds."""
    p50, p90 = (1e3 * float(np.percentile(measurement.seconds, p)) for p in (50, 90))
    return p50, p90


def row(measurement: measure.Measurement, others: list[measure.Measurement]) -> list[str]:
    """One contender on one pair."""
    p50, p90 = percentiles(measurement)
    rivals = {m.contender: percentiles(m)[0] for m in others if m.workload == measurement.workload}
    ratios = [f"{rivals[peer] / p50:.2f}x" if peer in rivals else "-" for peer in ("st-f32", "openvino-f32")]
    mark = "" if measurement.is_clean else "!"
    error = f"{measurement.max_abs_error:.1e}"
    return [measurement.contender, f"{p50:.2f}", f"{p90:.2f}{mark}", error, *ratios, measurement.settings]


def write_plot(path: Path, title: str, pairs: list[workload.Workload], found: list[measure.Measurement]) -> None:
    """A bar per contender to p50, a dot at p90, one panel per pair."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from plot import OUR_COLOUR, PEER_COLOUR

    figure, grid = plt.subplots(1, len(pairs), figsize=(5.5 * len(pairs), 3.2), squeeze=False)
    for axes, pair in zip(grid[0], pairs, strict=True):
        chosen = [m for m in found if m.workload == pair.name]
        names = [m.contender for m in chosen]
        values, tails = zip(*(percentiles(m) for m in chosen), strict=True)
        colours = [OUR_COLOUR if name.startswith("assay") else PEER_COLOUR for name in names]
        axes.barh(names, values, color=colours)
        axes.plot(tails, names, "o", color="black", markersize=4, label="p90")
        for name, value in zip(names, values, strict=True):
            axes.annotate(f" {value:.2f}", (value, name), va="center", fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("p50, milliseconds (less is better)")
        axes.set_title(f"one pair of {pair.pair_seqlens[0]} tokens", fontsize=9)
        axes.legend(fontsize=7)
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Run, print, save."""
    args = parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    silence()
    checkpoint = checkpoints.checkpoint_folder(args.model, args.cache)
    limits = machine.limits(args.threads, time.perf_counter)
    pairs = make_pairs(checkpoint)
    result = run(args, pairs, checkpoint)
    found: list[measure.Measurement] = result["measurements"]
    names = ["contender", "p50 ms", "p90 ms", "max |err|", "vs st-f32", "vs openvino-f32", "settings"]
    for pair in pairs:
        rows = [row(m, found) for m in found if m.workload == pair.name]
        print(f"\n{args.model}, one pair of {pair.pair_seqlens[0]} tokens\n{report.format_table(names, rows)}")
    if not args.no_save and not args.quick:
        header = record.header("latency", args.threads, [limits])
        path = record.path_of(f"latency-{args.model}", header)
        record.write(path, header | {"skipped": result["skipped"], "measurements": report.samples_json(found)})
        write_plot(record.picture(path), record.title(header), pairs, found)


if __name__ == "__main__":
    main()
