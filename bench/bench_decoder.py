"""A reranker made of a language model, Qwen3-0.6B shape with random weights: assay against sentence-transformers.

python bench/bench_decoder.py [--documents N] [--rounds N] [--batch-sizes 8,32] [--quick]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import contender
import decoder_reranker
import machine
import measure
import ours
import peers
import plot
import record
import report
from bench_rerank import CLOCKS, silence
from reference import reference_logits

REFERENCE_PEERS = ("st-bf16", "st-f32")
NUM_DOCUMENTS, NUM_LAYERS = 48, 28
QUICK_DOCUMENTS, QUICK_LAYERS = 3, 2
REFERENCE_DOCUMENTS = 4
PEAK_OF = {"assay-f32": "float32_fma", "st-f32": "float32_fma", "assay-bf16": "bfloat16", "st-bf16": "bfloat16"}
"""The arithmetic whose measured peak a contender's rate is held against."""


def load_peer(setup: contender.Setup, dtype: str) -> list[contender.Contender]:
    """CrossEncoder over the causal model: last logits of "yes" and "no", rendered by the folder's chat template."""
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    torch.set_num_threads(setup.num_threads)
    model_kwargs = {"dtype": getattr(torch, dtype), "attn_implementation": "sdpa"}
    base: Any = Transformer(
        str(setup.checkpoint),
        transformer_task="text-generation",
        model_kwargs=model_kwargs,
        processing_kwargs={"chat_template": {"add_generation_prompt": True}},
    )
    no, yes = decoder_reranker.answer_ids(base.tokenizer)
    model: Any = CrossEncoder(modules=[base, LogitScore(yes, no)], device="cpu")
    timed = peers.SentenceTransformers.with_timed_preprocessing(model, setup.clock)
    return [peers.SentenceTransformers(timed, dtype, size) for size in setup.batch_sizes]


LOADERS: dict[str, contender.Loader] = {
    "st-bf16": lambda setup: load_peer(setup, "bfloat16"),
    "st-f32": lambda setup: load_peer(setup, "float32"),
    **ours.LOADERS,
    "assay-f32": lambda setup: ours.load_assay(setup, "float32"),  # the checkpoint is bfloat16
}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=NUM_DOCUMENTS)
    parser.add_argument("--layers", type=int, default=NUM_LAYERS, help="fewer are another, smaller model")
    parser.add_argument("--rounds", type=int, default=3, help="undisturbed rounds wanted after warm-up")
    parser.add_argument("--max-rounds", type=int, help="upper limit of rounds, default: twice --rounds")
    parser.add_argument("--patience", type=float, default=20.0, help="seconds to wait for a quiet machine per turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contenders", default=",".join(LOADERS), help="comma-separated, default: %(default)s")
    parser.add_argument("--batch-sizes", default="8,32", help="a peer tries each three times; one alone only once")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_DOCUMENTS} documents, {QUICK_LAYERS} layers, batch 8"
    )
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "assay-bench")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    args.contenders = args.contenders.split(",")
    unknown = set(args.contenders) - set(LOADERS)
    if unknown:
        parser.error(f"--contenders: choose from {sorted(LOADERS)}, got {sorted(unknown)}")
    if args.quick:
        args.documents, args.layers = QUICK_DOCUMENTS, QUICK_LAYERS
        args.rounds, args.max_rounds, args.patience, args.batch_sizes = 2, 2, 0.0, "8"
    if args.documents < 2:
        parser.error(f"--documents must be at least 2, got {args.documents}")
    return args


def bench(args: argparse.Namespace) -> report.ModelResult:
    """Build, take the reference, tune, and let the contenders take turns."""
    from transformers import AutoConfig, AutoTokenizer

    checkpoint = decoder_reranker.folder_of(args.cache, args.layers)
    work = decoder_reranker.make_batch(AutoTokenizer.from_pretrained(checkpoint), args.documents)
    gflop = decoder_reranker.useful_flops(AutoConfig.from_pretrained(checkpoint), work.pair_seqlens) / 1e9
    reference = reference_logits(
        checkpoint, work, checkpoint.parent, decoder_reranker.compute_logits, REFERENCE_DOCUMENTS
    )
    batch_sizes = tuple(int(size) for size in args.batch_sizes.split(","))
    setup = contender.Setup(checkpoint, checkpoint.parent, args.threads, batch_sizes, CLOCKS["wall"])
    entrants: list[measure.Entrant] = []
    skipped: dict[str, str] = {}
    for label in args.contenders:
        start = time.perf_counter()
        try:
            candidates = LOADERS[label](setup)
        except (contender.Unavailable, ImportError) as err:
            skipped[label] = str(err)
            print(f"skipping {label}: {err}", flush=True)
            continue
        entrants.append(measure.enter(label, candidates, work, reference, 1, setup.clock, args.patience))
        print(f"{label} ready in {time.perf_counter() - start:.0f} s", flush=True)
    measure.run_rounds(entrants, args.rounds, args.max_rounds or 2 * args.rounds, args.patience)
    name = f"Qwen3-0.6B shape, {args.layers} layers"
    measurements = [entrant.measurement for entrant in entrants]
    return report.ModelResult(
        name, [work], {work.name: gflop}, {work.name: reference}, measurements, skipped, REFERENCE_PEERS
    )


def shares_of_peak(result: report.ModelResult, limits: report.Limits) -> dict[str, float]:
    """Useful work per second of each contender over the peak measured in this run; empty where there is no peak."""
    shares = {}
    for measurement in result.measurements:
        peak = limits[f"{PEAK_OF[measurement.contender]}_peak_gflops"]
        if peak is not None:
            shares[measurement.contender] = result.gflop[measurement.workload] / measurement.median_s / peak
    return shares


def main() -> None:
    """Run, print, save."""
    args = parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    silence()
    limits = [machine.limits(args.threads, CLOCKS["wall"])]
    result = bench(args)
    limits.append(machine.limits(args.threads, CLOCKS["wall"]))
    best = report.best_limits(limits)
    shares = shares_of_peak(result, best)
    header = record.header("decoder", args.threads, limits) | {"share_of_peak": shares}
    print(f"\n{args.threads} threads; {report.format_limits(best)}\n")
    print(report.format_model(result))
    print(f"\nerrors are those of the first {len(result.reference['batch'])} documents")
    for name, share in shares.items():
        print(f"{name}: {100 * share:.1f} % of the {PEAK_OF[name]} peak")
    if not args.no_save and not args.quick:
        path = record.path_of("decoder-qwen3-0.6b", header)
        record.write(path, header | {"models": report.as_json([result])})
        plot.write_plot(record.picture(path), record.title(header), [result])


if __name__ == "__main__":
    main()
