"""How assay's throughput depends on batch budget, sequence length, threads and the mix of lengths; no peers.

python bench/bench_scaling.py [--model minilm] [--rounds N] [--quick] [--no-save]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import checkpoints
import machine
import measure
import properties
import record
import report
import workload
from bench_rerank import silence

BATCH_TOKENS = (256, 512, 1024, 2048, 4096, 8192, 16384)
DEFAULT_BATCH_TOKENS = 4096
SEQLENS = (16, 32, 64, 128, 256, 512)
TOTAL_TOKENS, QUICK_TOKENS = 32_768, 2_048
ROUNDS, QUICK_ROUNDS = 5, 2
MEAN_LONG_TAIL_TOKENS = 90


@dataclass(frozen=True, slots=True)
class Point:
    """One setting and the token ids of its texts."""

    series: str
    x: int
    num_threads: int
    max_batch_tokens: int
    inputs: list[list[int]]

    @property
    def num_tokens(self) -> int:
        """All tokens of all inputs."""
        return sum(map(len, self.inputs))


def inputs_of(lengths: list[int], vocab_size: int, rng: np.random.Generator) -> list[list[int]]:
    """Random token ids, all different: the engine computes equal inputs only once."""
    return [[int(token) for token in rng.integers(1000, vocab_size, length)] for length in lengths]


def points(num_threads: int, total: int, vocab_size: int) -> Iterator[Point]:
    """Everything that is measured."""
    rng = np.random.default_rng(checkpoints.SEED)
    num_documents = max(4, total // MEAN_LONG_TAIL_TOKENS)
    mix = workload.document_lengths(num_documents, rng)
    long_tail = inputs_of(mix, vocab_size, rng)
    for budget in BATCH_TOKENS:
        yield Point(properties.BATCH_BUDGET, budget, num_threads, budget, long_tail)
    for length in SEQLENS:
        uniform = inputs_of([length] * (total // length), vocab_size, rng)
        yield Point("sequence length", length, num_threads, DEFAULT_BATCH_TOKENS, uniform)
    for threads in range(1, num_threads + 1):
        yield Point("threads, long tail", threads, threads, DEFAULT_BATCH_TOKENS, long_tail)
    # The same number of texts and tokens (give or take a text's rounding), spread evenly.
    mean = round(sum(mix) / len(mix))
    uniform = inputs_of([mean] * len(mix), vocab_size, rng)
    yield Point(properties.LONG_TAIL, mean, num_threads, DEFAULT_BATCH_TOKENS, long_tail)
    yield Point(properties.UNIFORM, mean, num_threads, DEFAULT_BATCH_TOKENS, uniform)


class Models:
    """One LLM per batch budget, started once."""

    def __init__(self, checkpoint: Path, dtype: str) -> None:
        self.checkpoint, self.dtype = checkpoint, dtype
        self.started: dict[int, Any] = {}

    def get(self, max_batch_tokens: int) -> Any:
        """The model with this budget."""
        from assay import LLM

        if max_batch_tokens not in self.started:
            self.started[max_batch_tokens] = LLM(
                str(self.checkpoint), dtype=self.dtype, max_batch_tokens=max_batch_tokens, max_batch_size=1024
            )
        return self.started[max_batch_tokens]


def run(models: Models, point: Point, patience_s: float) -> dict[str, float]:
    """Seconds of one call with ids as input (no tokenizer), and what others used of the machine meanwhile."""
    from assay import ops

    llm = models.get(point.max_batch_tokens)
    prompts = [{"prompt_token_ids": ids} for ids in point.inputs]
    ops.set_num_threads(point.num_threads)
    measure.wait_for_quiet(patience_s)
    with machine.ForeignLoad() as load:
        start = time.perf_counter()
        llm.classify(prompts, use_tqdm=False)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "foreign_cores": round(load.cores, 3)}


def measured(models: Models, chosen: list[Point], rounds: int, patience_s: float) -> list[dict[str, Any]]:
    """Points in turns, round after round, after one call of each that is not counted."""
    samples: list[list[dict[str, float]]] = [[] for _ in chosen]
    for point in chosen:
        run(models, point, 0.0)
    for round_idx in range(rounds):
        shift = round_idx % len(chosen)
        order = [*range(shift, len(chosen)), *range(shift)]
        for idx in order:
            samples[idx].append(run(models, chosen[idx], patience_s))
        print(f"round {round_idx + 1} of {rounds}", flush=True)
    return [row(point, found) for point, found in zip(chosen, samples, strict=True)]


def row(point: Point, samples: list[dict[str, float]]) -> dict[str, Any]:
    """A point with its samples and rates."""
    rates = [point.num_tokens / sample["seconds"] for sample in samples]
    return {
        "series": point.series,
        "x": point.x,
        "num_threads": point.num_threads,
        "max_batch_tokens": point.max_batch_tokens,
        "num_inputs": len(point.inputs),
        "num_tokens": point.num_tokens,
        "samples": samples,
        "tokens_per_s": statistics.median(rates),
        "tokens_per_s_range": [min(rates), max(rates)],
        "foreign_cores": statistics.median(sample["foreign_cores"] for sample in samples),
    }


def shown(row: dict[str, Any]) -> list[str]:
    """A row as text."""
    low, high = row["tokens_per_s_range"]
    size = f"{row['num_inputs']} inputs, {row['num_tokens']} tokens"
    mark = "" if row["foreign_cores"] <= measure.CLEAN_CORES else "!"
    rate, spread = f"{row['tokens_per_s']:.0f}", f"{low:.0f}..{high:.0f}"
    return [row["series"], str(row["x"]), rate, spread, f"{row['foreign_cores']:.2f}{mark}", size]


def write_plot(path: Path, title: str, rows: list[dict[str, Any]]) -> None:
    """One panel per series: median tokens per second with the range of the rounds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    series: dict[str, list[dict[str, Any]]] = {}
    for item in rows:
        series.setdefault("mix" if item["series"].startswith("mix") else item["series"], []).append(item)
    figure, grid = plt.subplots(1, len(series), figsize=(4 * len(series), 3.4))
    for axes, (name, chosen) in zip(grid, series.items(), strict=True):
        is_mix = name == "mix"
        labels = [item["series"].removeprefix("mix: ") if is_mix else str(item["x"]) for item in chosen]
        rates = [item["tokens_per_s"] for item in chosen]
        spread = [
            [rate - item["tokens_per_s_range"][0] for rate, item in zip(rates, chosen, strict=True)],
            [item["tokens_per_s_range"][1] - rate for rate, item in zip(rates, chosen, strict=True)],
        ]
        axes.errorbar(labels, rates, yerr=spread, fmt="o" if is_mix else "o-", capsize=3, color="#c2410c")
        axes.set_ylim(bottom=0)
        axes.set_title(name, fontsize=9)
        axes.set_ylabel("tokens/s")
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(checkpoints.BUILDERS), default="minilm")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=2, help="largest number of threads")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--patience", type=float, default=5.0, help="seconds to wait for a quiet machine per call")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TOKENS} tokens, {QUICK_ROUNDS} rounds")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "assay-bench")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.patience = QUICK_ROUNDS, 0.0
    return args


def main() -> None:
    """Run, print, save."""
    from transformers import AutoConfig

    args = parse_args()
    silence()
    checkpoint = checkpoints.checkpoint_folder(args.model, args.cache)
    vocab_size = AutoConfig.from_pretrained(checkpoint).vocab_size
    chosen = list(points(args.threads, QUICK_TOKENS if args.quick else TOTAL_TOKENS, vocab_size))
    rows = measured(Models(checkpoint, args.dtype), chosen, args.rounds, args.patience)
    names = ["series", "x", "tokens/s", "min..max", "foreign", "work"]
    print(f"\n{args.model}, {args.dtype}\n{report.format_table(names, [shown(item) for item in rows])}\n")
    found = properties.ratios(rows)
    print("properties, tokens per second in ratio:\n" + "\n".join(f"  {ratio}" for ratio in found))
    if not args.no_save and not args.quick:
        limits = machine.limits(args.threads, time.perf_counter)
        header = record.header("scaling", args.threads, [limits]) | {"model": args.model, "dtype": args.dtype}
        path = record.path_of(f"scaling-{args.model}", header)
        record.write(path, header | {"properties": [ratio.as_json() for ratio in found], "rows": rows})
        write_plot(record.picture(path), record.title(header), rows)


if __name__ == "__main__":
    main()
