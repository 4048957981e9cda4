"""Reranking on a CPU: assay against sentence-transformers, ONNX Runtime and OpenVINO, speed and error in one run.

python bench/bench_rerank.py [--model minilm|roberta-base|all] [--rounds N] [--quick]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import checkpoints
import contender
import machine
import measure
import ours
import peers
import plot
import record
import report
import workload
from reference import reference_logits

LOADERS = peers.LOADERS | ours.LOADERS
NUM_DOCUMENTS = {"minilm": 256, "roberta-base": 96}
QUICK_DOCUMENTS = 32
CLOCKS: dict[str, contender.Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*NUM_DOCUMENTS, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=5, help="undisturbed rounds wanted after warm-up")
    parser.add_argument("--max-rounds", type=int, help="upper limit of rounds, default: twice --rounds")
    parser.add_argument("--patience", type=float, default=20.0, help="seconds to wait for a quiet machine per turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contenders", default=",".join(LOADERS), help="comma-separated, default: %(default)s")
    parser.add_argument("--batch-sizes", default="8,32", help="batch sizes each peer may choose from at warm-up")
    parser.add_argument("--pair-calls", type=int, default=20, help="one-pair calls per contender and round")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: CPU time, for a busy machine")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_DOCUMENTS} documents, 2 rounds: a smoke test")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "assay-bench")
    parser.add_argument("--no-save", action="store_true", help="print only")
    parser.add_argument("--json", type=Path, help="write the JSON here too, with --quick and --no-save as well")
    args = parser.parse_args()
    args.contenders = args.contenders.split(",")
    unknown = set(args.contenders) - set(LOADERS)
    if unknown:
        parser.error(f"--contenders: choose from {sorted(LOADERS)}, got {sorted(unknown)}")
    if args.clock == "cpu" and args.threads != 1:
        parser.error(f"--clock cpu needs --threads 1, got {args.threads}: waiting threads would be counted as work")
    if args.quick:
        args.rounds, args.max_rounds, args.patience = 2, 2, 0.0
    elif args.clock == "cpu":
        args.max_rounds, args.patience = args.rounds, 0.0
    return args


def silence() -> None:
    """Keep library progress bars and export warnings out of the report."""
    import transformers

    warnings.filterwarnings("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def load_workloads(checkpoint: Path, num_documents: int) -> tuple[list[workload.Workload], dict[str, float]]:
    """The batch and the pair for this checkpoint's tokenizer, and the useful GFLOP of each."""
    from transformers import AutoConfig, AutoTokenizer

    words = workload.read_words(checkpoints.minilm_folder() / "vocab.txt")
    workloads = workload.make_workloads(AutoTokenizer.from_pretrained(checkpoint), words, num_documents)
    config = AutoConfig.from_pretrained(checkpoint)
    return workloads, {w.name: workload.useful_flops(config, w.pair_seqlens) / 1e9 for w in workloads}


def bench_model(name: str, args: argparse.Namespace) -> report.ModelResult:
    """Build, tune and time one model with every contender that is there."""
    checkpoint = checkpoints.checkpoint_folder(name, args.cache)
    workloads, gflop = load_workloads(checkpoint, QUICK_DOCUMENTS if args.quick else NUM_DOCUMENTS[name])
    reference = {w.name: reference_logits(checkpoint, w, args.cache / name) for w in workloads}
    batch_sizes = tuple(int(size) for size in args.batch_sizes.split(","))
    setup = contender.Setup(checkpoint, args.cache / name, args.threads, batch_sizes, CLOCKS[args.clock])
    entrants: list[measure.Entrant] = []
    skipped: dict[str, str] = {}
    for label in args.contenders:
        start = time.perf_counter()
        try:
            candidates = LOADERS[label](setup)
        except (contender.Unavailable, ImportError) as err:
            skipped[label] = str(err)
            print(f"{name}: skipping {label}: {err}", flush=True)
            continue
        for w in workloads:
            calls = args.pair_calls if w.name == "pair" else 1
            # One pair at a time cannot use several streams, so settings made for them do not enter.
            fit = [c for c in candidates if w.name != "pair" or "THROUGHPUT" not in c.settings]
            entrants.append(measure.enter(label, fit, w, reference[w.name], calls, setup.clock, args.patience))
        print(f"{name}: {label} ready in {time.perf_counter() - start:.0f} s", flush=True)
    measure.run_rounds(entrants, args.rounds, args.max_rounds or 2 * args.rounds, args.patience)
    return report.ModelResult(name, workloads, gflop, reference, [e.measurement for e in entrants], skipped)


def save(header: dict[str, Any], results: list[report.ModelResult], model: str) -> None:
    """JSON and PNG under bench/results."""
    name = f"rerank-{model}" + ("-cputime" if header["clock"] == "cpu" else "")
    path = record.path_of(name, header)
    record.write(path, header | {"models": report.as_json(results)})
    plot.write_plot(record.picture(path), record.title(header), results)


def main() -> None:
    """Run, print, save."""
    args = parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    silence()
    names = list(NUM_DOCUMENTS) if args.model == "all" else [args.model]
    limits = [machine.limits(args.threads, CLOCKS[args.clock])]
    results = [bench_model(name, args) for name in names]
    limits.append(machine.limits(args.threads, CLOCKS[args.clock]))
    header = record.header("rerank", args.threads, limits, args.clock)
    print(f"\n{args.threads} threads, {args.clock} time; {report.format_limits(report.best_limits(limits))}\n")
    print("\n\n".join(report.format_model(result) for result in results))
    if args.json is not None:
        args.json.write_text(json.dumps(header | {"models": report.as_json(results)}) + "\n", encoding="utf-8")
    if not args.no_save and not args.quick:
        save(header, results, args.model)


if __name__ == "__main__":
    main()
