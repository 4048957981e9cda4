"""A Jamba reward model, random weights: assay against transformers on ragged texts, and the two kernels alone.

python bench/bench_mamba.py [--texts N] [--turns N] [--threads N] [--no-save]

transformers runs its own code without the mamba-ssm and causal-conv1d packages, which need a GPU: padded batches sorted
by length, and one text at a time. All take turns in one process; a ratio is taken within a turn. Errors are largest
distances from transformers in float64, one text at a time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import machine
import record
from bench_rerank import silence
from report import format_table

SHAPE: Final[dict[str, Any]] = {
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
    "num_experts": 8,
    "num_labels": 1,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
}
LEAST_TOKENS, MOST_TOKENS = 20, 220
BATCH_SIZE: Final = 8
DTYPES: Final = ("float32", "bfloat16")
BASE: Final = "transformers float32, padded"
UNTIMED: Final = "transformers bfloat16"
"""Only its error counts: torch's bfloat16 takes minutes on a CPU without instructions for it."""
WARM_UP_TURNS: Final = 1
KERNEL_CALLS: Final = 20


def make_model(folder: Path) -> None:
    """Weights of a size that lets every layer matter; steps and decays as Mamba initialises them."""
    import torch
    from transformers import JambaConfig, JambaForSequenceClassification

    torch.manual_seed(0)
    model = JambaForSequenceClassification(JambaConfig(**SHAPE, initializer_range=0.05))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("dt_proj.bias"):
                parameter.uniform_(-6, -2)
            if name.endswith("score.weight"):
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)


def make_texts(num_texts: int) -> list[list[int]]:
    """Token ids of even lengths between LEAST_TOKENS and MOST_TOKENS."""
    import torch

    generator = torch.Generator().manual_seed(1)
    lengths = torch.linspace(LEAST_TOKENS, MOST_TOKENS, num_texts).long()[
        torch.randperm(num_texts, generator=generator)
    ]
    return [torch.randint(3, SHAPE["vocab_size"], (int(n),), generator=generator).tolist() for n in lengths]


def load_transformers(folder: Path, dtype: str) -> Any:
    """transformers' own model."""
    import torch
    from transformers import JambaForSequenceClassification

    # float64 has no grouped product of experts.
    experts = {"experts_implementation": "eager"} if dtype == "float64" else {}
    model = JambaForSequenceClassification.from_pretrained(folder, dtype=getattr(torch, dtype), **experts).eval()
    model.config.use_cache = False
    return model


def padded_logits(model: Any, texts: list[list[int]], batch_size: int) -> list[float]:
    """The logit of each text, in batches of texts of like lengths."""
    import torch

    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    logits = [0.0] * len(texts)
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            rows = [torch.tensor(texts[i]) for i in chosen]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
            for i, value in zip(chosen, model(input_ids=ids, attention_mask=mask).logits[:, 0].tolist(), strict=True):
                logits[i] = value
    return logits


def our_logits(llm: Any, texts: list[list[int]]) -> list[float]:
    """The same of ours."""
    outputs = llm.classify([{"prompt_token_ids": text} for text in texts], use_tqdm=False)
    return [output.outputs.probs[0] for output in outputs]  # a reward model's are logits


def run_turns(contenders: dict[str, Callable[[], list[float]]], num_turns: int) -> dict[str, list[float]]:
    """Seconds of each contender's call, turn by turn, in changing order; the first turns warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(WARM_UP_TURNS + num_turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            contenders[name]()
            if turn >= WARM_UP_TURNS:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ms(call: Callable[[], object]) -> float:
    """Of KERNEL_CALLS calls after one more."""
    call()
    times = []
    for _ in range(KERNEL_CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def time_kernels(num_tokens: int = 1024, num_channels: int = 1024, state_size: int = 16) -> list[dict[str, Any]]:
    """Both kernels on one sequence beside what transformers calls, float32, and their distance from float64."""
    import torch
    from transformers.models.jamba import modeling_jamba

    from assay import ops

    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    u, delta, z = (randn(num_tokens, num_channels) for _ in range(3))
    b, c, d = randn(num_tokens, state_size), randn(num_tokens, state_size), randn(num_channels)
    a = -torch.arange(1.0, state_size + 1)[:, None].repeat(1, num_channels)
    weight, bias = randn(4, num_channels), randn(num_channels)
    ends = torch.tensor([0, num_tokens], dtype=torch.int32)

    def convolve(dtype: torch.dtype) -> torch.Tensor:
        parts = (u.T[None], weight.T.contiguous(), bias)
        out: torch.Tensor = modeling_jamba.causal_conv1d_fn(*(part.to(dtype) for part in parts), activation="silu")
        return out[0].T

    def scan(dtype: torch.dtype) -> torch.Tensor:
        u_, delta_, b_, c_, z_ = (part.to(dtype).T[None] for part in (u, delta, b, c, z))
        others = {"D": d.to(dtype), "z": z_, "delta_softplus": True}
        out: torch.Tensor = modeling_jamba.mamba_selective_scan(u_, delta_, a.T.to(dtype), b_, c_, **others)
        return out[0].T

    def our_convolution() -> torch.Tensor:
        return ops.causal_conv1d(u, weight, bias, ends, activation="silu")

    def our_scan() -> torch.Tensor:
        return ops.selective_scan(u, delta, a, b, c, d, ends, z=z)

    rows = []
    with torch.inference_mode():
        for name, ours, theirs in (("causal_conv1d", our_convolution, convolve), ("selective_scan", our_scan, scan)):
            exact, size = theirs(torch.float64), f"{num_tokens} tokens, {num_channels} channels"
            for engine, call in (("assay", ours), ("transformers", lambda run=theirs: run(torch.float32))):
                error = float((call() - exact).abs().max())
                rows.append({"op": name, "engine": engine, "size": size, "ms": median_ms(call), "error": error})
    return rows


def run_models(texts: list[list[int]], num_turns: int, num_threads: int) -> dict[str, Any]:
    """Seconds per turn, speeds and errors of every contender on one checkpoint."""
    from assay import LLM

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder)
        exact = padded_logits(load_transformers(folder, "float64"), texts, 1)
        theirs = {dtype: load_transformers(folder, dtype) for dtype in DTYPES}
        ours = {dtype: LLM(folder, dtype=dtype, num_threads=num_threads, skip_tokenizer_init=True) for dtype in DTYPES}
    contenders: dict[str, Callable[[], list[float]]] = {
        "assay float32": lambda: our_logits(ours["float32"], texts),
        "assay bfloat16": lambda: our_logits(ours["bfloat16"], texts),
        BASE: lambda: padded_logits(theirs["float32"], texts, BATCH_SIZE),
        "transformers float32, one by one": lambda: padded_logits(theirs["float32"], texts, 1),
    }
    untimed = {UNTIMED: lambda: padded_logits(theirs["bfloat16"], texts, 1)}
    errors = {
        name: max(abs(a - b) for a, b in zip(call(), exact, strict=True))
        for name, call in (contenders | untimed).items()
    }
    with machine.ForeignLoad() as load:
        seconds = run_turns(contenders, num_turns)
    for llm in ours.values():
        llm.close()
    ratios = {
        name: statistics.median(b / t for b, t in zip(seconds[BASE], taken, strict=True))
        for name, taken in seconds.items()
    }
    return {
        "num_texts": len(texts),
        "largest_logit": max(abs(value) for value in exact),
        "max_abs_error": errors,
        "foreign_cores": load.cores,
        "seconds": seconds,
        "times_as_fast": ratios,
    }


def show(result: dict[str, Any], kernels: list[dict[str, Any]]) -> None:
    """Both tables."""
    print(f"{result['num_texts']} texts of {LEAST_TOKENS} to {MOST_TOKENS} tokens, ", end="")
    print(f"largest logit {result['largest_logit']:.2f}; other processes used {result['foreign_cores']:.1f} cores")
    rows = []
    for name, error in result["max_abs_error"].items():
        speed = "-" if name == UNTIMED else f"{result['num_texts'] / statistics.median(result['seconds'][name]):.1f}"
        ratio = "-" if name == UNTIMED else f"{result['times_as_fast'][name]:.1f}"
        rows.append([name, speed, ratio, f"{error:.1e}"])
    print(format_table(["engine", "texts/s", "times as fast as padded", "error"], rows))
    rows = [[k["op"], k["engine"], k["size"], f"{k['ms']:.2f}", f"{k['error']:.1e}"] for k in kernels]
    print(format_table(["op", "engine", "size", "ms", "error"], rows))


def main() -> None:
    """Run, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    silence()
    import torch

    torch.set_num_threads(args.threads)
    result = run_models(make_texts(args.texts), args.turns, args.threads)
    kernels = time_kernels()
    show(result, kernels)
    if not args.no_save:
        facts = record.facts("mamba", args.threads)
        path = record.path_of("mamba", facts)
        record.write(path, facts | {"shape": SHAPE, **result, "kernels": kernels}, has_picture=False)


if __name__ == "__main__":
    main()
