"""int8 beside bfloat16 and float32 on one model: speed in paired turns, error against float64, the guard's verdict.

python bench/bench_int8.py [--turns N] [--texts N] [--threads N] [--no-save]

The model is the demo classifier: MiniLM's weights and a trained head. The guard refuses the seeded heads of the other
benches, because what they tell texts apart by is as small as int8's error. A turn is one call of each mode, in changing
order; a ratio is taken within a turn, so that a neighbour who comes and goes disturbs both of its sides.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

import checkpoints
import machine
import record
import workload
from bench_rerank import silence
from contender import FloatArray
from report import format_table

MODES: Final[dict[str, dict[str, Any]]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantization": "int8"},
}
LEAST_WORDS, MOST_WORDS = 40, 140
WARM_UP_TURNS: Final = 2


def make_texts(num_texts: int) -> list[str]:
    """Texts of seeded words, of even lengths between LEAST_WORDS and MOST_WORDS."""
    words = workload.read_words(checkpoints.minilm_folder() / "vocab.txt")
    rng = np.random.default_rng(checkpoints.SEED)
    return [workload.make_text(words, int(n), rng) for n in rng.integers(LEAST_WORDS, MOST_WORDS, num_texts)]


def reference_logits(texts: list[str]) -> FloatArray:
    """Logits [num_texts, num_labels] of the demo classifier in float64, one text at a time, by transformers."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    import assay

    folder = checkpoints.minilm_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    backbone = AutoModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float64).eval()
    head = load_file(Path(assay.__file__).parent / "demo_model" / "head.safetensors")
    weight, bias = head["classifier.weight"].double(), head["classifier.bias"].double()
    rows = []
    with torch.inference_mode():
        for text in texts:
            encoding = tokenizer(text, return_tensors="pt")
            rows.append(backbone(**encoding).last_hidden_state[0].mean(0) @ weight.T + bias)
    return torch.stack(rows).numpy()


def run_turns(models: dict[str, Any], texts: list[str], num_turns: int) -> list[dict[str, float]]:
    """Seconds of one call per mode, turn by turn."""
    turns = []
    names = list(models)
    for turn in range(num_turns + WARM_UP_TURNS):
        shift = turn % len(names)
        seconds = {}
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            models[name].classify(texts, use_tqdm=False)
            seconds[name] = time.perf_counter() - start
        turns.append(seconds)
    return turns[WARM_UP_TURNS:]


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """First, second (the median) and third."""
    first, second, third = statistics.quantiles(values, n=4)
    return first, second, third


def table(turns: list[dict[str, float]], errors: dict[str, float], num_texts: int) -> str:
    """A row per mode; ratios are medians of the turns' own ratios, with their quartiles."""
    rows = []
    for name in MODES:
        speeds = [num_texts / turn[name] for turn in turns]
        speed = f"{statistics.median(speeds):.1f}"
        row = [name, speed, f"{min(speeds):.1f} .. {max(speeds):.1f}", f"{errors[name]:.1e}"]
        for other in ("float32", "bfloat16"):
            low, middle, high = quartiles([turn[other] / turn[name] for turn in turns])
            row.append(f"{middle:.2f}x ({low:.2f} .. {high:.2f})" if other != name else "-")
        rows.append(row)
    return format_table(["mode", "texts/s", "range", "max |err|", "against float32", "against bfloat16"], rows)


def write_plot(path: Path, title: str, turns: list[dict[str, float]], num_texts: int) -> None:
    """A box per mode."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.5, 2.6))
    axes.boxplot([[num_texts / turn[name] for turn in turns] for name in MODES], orientation="horizontal")
    axes.set_yticks(range(1, len(MODES) + 1), list(MODES))
    axes.set_xlabel("texts per second (more is better)")
    axes.set_title(title, fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=120)
    parser.add_argument("--texts", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-save", action="store_true", help="print only")
    return parser.parse_args()


def main() -> None:
    """Run, print, save."""
    args = parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    silence()
    from assay import LLM, PoolingParams

    limits = machine.limits(args.threads, time.perf_counter)
    texts = make_texts(args.texts)
    with tempfile.TemporaryDirectory() as cache:  # the verdict is measured here and now
        os.environ["ASSAY_CACHE"] = cache
        models = {name: LLM("demo", num_threads=args.threads, **settings) for name, settings in MODES.items()}
    verdict = models["int8"].quantization
    print(f"int8: {verdict}", flush=True)
    exact = reference_logits(texts)
    errors = {}
    for name, model in models.items():
        outputs = model.encode(texts, PoolingParams(use_activation=False), pooling_task="classify", use_tqdm=False)
        ours = np.stack([output.outputs.data.double().numpy() for output in outputs])
        errors[name] = float(np.abs(ours - exact).max())
    turns = run_turns(models, texts, args.turns)
    print(table(turns, errors, args.texts))
    if args.no_save:
        return
    header = record.header("int8", args.threads, [limits])
    path = record.path_of("int8-demo", header)
    record.write(path, header | {"verdict": str(verdict), "max_abs_error": errors, "seconds": turns})
    write_plot(record.picture(path), record.title(header), turns, args.texts)


if __name__ == "__main__":
    main()
