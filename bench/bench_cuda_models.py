"""Whole models on a GPU: pairs per second, the share of the bare products, one pair's latency, and the error.

python bench/bench_cuda_models.py --out bench/results
python bench/bench_cuda_models.py --models tiny --device cpu --contenders transformers-sdpa   # does it run at all?

Every contender takes the same token ids in the same process and gives logits on the host; they take turns round by
round. transformers pads each batch of the sorted pairs to its longest one (sdpa, compile) or packs them (varlen).
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import machine
from contender import Unavailable
from cuda_checkpoints import SHAPES, folder_of, products, token_ids
from cuda_contenders import MAKERS, TOKEN_BUDGET, Assay, Ids, Transformers

ROUNDS = 3
LATENCY_TOKENS = 110
LATENCY_CALLS = 50
ERROR_PAIRS = 48


def seconds(fn: Callable[[], object], device: str) -> float:
    """Wall time of a call, with the GPU's work in it."""
    wait(device)
    start = time.perf_counter()
    fn()
    wait(device)
    return time.perf_counter() - start


def wait(device: str) -> None:
    """Until the GPU is done."""
    if device != "cpu":
        torch.cuda.synchronize()


def bare_products_s(name: str, num_tokens: int, device: str) -> float:
    """Time of nothing but the matrix products of all layers, by torch.mm in bfloat16."""
    total = 0.0
    for out_features, in_features in products(name):
        x = torch.randn(num_tokens, in_features, device=device, dtype=torch.bfloat16)
        weight = torch.randn(out_features, in_features, device=device, dtype=torch.bfloat16)
        out = torch.empty(num_tokens, out_features, device=device, dtype=torch.bfloat16)

        def multiply(x: Any = x, weight: Any = weight, out: Any = out) -> None:
            for _ in range(10):
                torch.mm(x, weight.T, out=out)

        multiply()
        total += statistics.median(seconds(multiply, device) / 10 for _ in range(5))
    layers: int = SHAPES[name].config["num_hidden_layers"]
    return total * layers


def full_batch(ids: Ids) -> Ids:
    """Pairs of about TOKEN_BUDGET tokens together, in the order given."""
    picked: Ids = []
    size = 0
    for row in ids:
        if size + len(row) > TOKEN_BUDGET:
            break
        picked.append(row)
        size += len(row)
    return picked


def forward_s(contender: Assay, ids: Ids, device: str) -> float:
    """One pass of our model over a packed batch, without the engine around it."""
    from assay.batch import Sequence, pack

    model = contender.llm.session.model
    batch = pack([Sequence(row) for row in ids], model.position_offset)
    flags = [False] * batch.num_seqs
    model.run(batch, flags)
    return statistics.median(seconds(lambda: model.run(batch, flags), device) for _ in range(7))


def reason(err: Exception) -> str:
    """An exception in one line."""
    return f"{type(err).__name__}: {str(err).strip().splitlines()[0] if str(err).strip() else ''}"


def load(names: list[str], folder: Path, device: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Contenders that run, and why the others do not."""
    running, missing = {}, {}
    for name in names:
        try:
            running[name] = MAKERS[name](folder, device)
        except (Unavailable, ImportError, ValueError, RuntimeError) as err:
            missing[name] = reason(err)
            print(f"{name}: {missing[name]}", flush=True)
    return running, missing


def warm_up(running: dict[str, Any], missing: dict[str, str], ids: Ids) -> dict[str, torch.Tensor]:
    """The first logits of every contender; one that fails is dropped with the reason."""
    logits = {}
    for name in list(running):
        try:
            logits[name] = running[name].score(ids)
        except Exception as err:  # whatever a library does on a machine nobody has tried it on
            missing[name] = reason(err)
            print(f"{name}: {missing[name]}", flush=True)
            running.pop(name).close()
    return logits


def bench(name: str, contenders: list[str], cache: Path, device: str) -> dict[str, Any]:
    """One model's figures."""
    folder, ids = folder_of(name, cache, device), token_ids(name)
    reference = Transformers(folder, device, "eager-f32")
    exact = reference.score(ids[:ERROR_PAIRS])
    reference.close()
    running, missing = load(contenders, folder, device)
    logits = warm_up(running, missing, ids)
    samples: dict[str, list[float]] = {contender: [] for contender in running}
    for turn in range(ROUNDS):
        order = list(running)
        for contender in order[turn % len(order) :] + order[: turn % len(order)]:
            samples[contender].append(seconds(lambda one=running[contender]: one.score(ids), device))
    one = [min(ids, key=lambda row: abs(len(row) - LATENCY_TOKENS))]
    rows = []
    for contender, times in samples.items():
        scorer = running[contender]
        scorer.score(one)
        calls = [seconds(lambda one_scorer=scorer: one_scorer.score(one), device) for _ in range(LATENCY_CALLS)]
        rows.append(
            {
                "contender": contender,
                "pairs_per_s": len(ids) / statistics.median(times),
                "samples_s": times,
                "latency_ms": 1e3 * statistics.median(calls),
                "latency_p90_ms": 1e3 * statistics.quantiles(calls, n=10)[-1],
                "error": float((logits[contender][:ERROR_PAIRS] - exact).abs().max()),
            }
        )
    result = {"model": name, "num_pairs": len(ids), "num_tokens": sum(map(len, ids)), "rows": rows, "missing": missing}
    if "assay" in running:
        batch = full_batch(ids)
        result["forward_s"] = forward_s(running["assay"], batch, device)
        result["bare_products_s"] = bare_products_s(name, sum(map(len, batch)), device)
        result["share_of_bare_products"] = result["bare_products_s"] / result["forward_s"]
        result["memory"] = str(running["assay"].llm.session.model.device_memory)
    for scorer in running.values():
        scorer.close()
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
    return result


def show(result: dict[str, Any]) -> None:
    """One line a contender."""
    print(f"\n{result['model']}: {result['num_pairs']} pairs, {result['num_tokens']} tokens")
    base = next((row["pairs_per_s"] for row in result["rows"] if row["contender"] == "transformers-sdpa"), None)
    for row in result["rows"]:
        ratio = f"{row['pairs_per_s'] / base:6.2f} x sdpa" if base else ""
        print(
            f"  {row['contender']:22} {row['pairs_per_s']:9.1f} pairs/s {ratio}  one pair {row['latency_ms']:7.2f} ms  "
            f"error {row['error']:.1e}"
        )
    if "forward_s" in result:
        print(
            f"  one batch: {1e3 * result['forward_s']:.2f} ms, bare products {1e3 * result['bare_products_s']:.2f} ms "
            f"({100 * result['share_of_bare_products']:.0f} %); {result['memory']}"
        )


def save(results: list[dict[str, Any]], folder: Path, card: str) -> None:
    """Write the JSON file of this day and card, over one of this run."""
    folder.mkdir(parents=True, exist_ok=True)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    report = {"card": card, "date": date, "commit": machine.commit(), "machine": machine.describe()}
    path = folder / f"gpu-models-{date}-{card.lower().replace(' ', '-')}.json"
    path.write_text(json.dumps({**report, "results": results}, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path.name}", flush=True)


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="minilm-l6,xlm-r-large,qwen3-0.6b,qwen2.5-1.5b", help=", ".join(SHAPES))
    parser.add_argument("--contenders", default=",".join(MAKERS), help="which of them, with commas between")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "assay-bench-cuda")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no further model after so long")
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    arguments = parser.parse_args()
    names, contenders = arguments.models.split(","), arguments.contenders.split(",")
    for name, known in ((names, SHAPES), (contenders, MAKERS)):
        unknown = set(name) - set(known)
        if unknown:
            parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
    if arguments.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("needs a GPU and a CUDA build of torch (or --device cpu)")
    start = time.perf_counter()
    results = []
    for name in names:
        if time.perf_counter() - start > arguments.seconds:
            print(f"{name}: left out, {arguments.seconds:.0f} s are over", flush=True)
            continue
        results.append(bench(name, contenders, arguments.cache, arguments.device))
        show(results[-1])
        if arguments.out:  # after every model: the next one may be stopped
            save(results, arguments.out, "cpu" if arguments.device == "cpu" else torch.cuda.get_device_name())


if __name__ == "__main__":
    main()
