"""Times the CUDA `pool` and `classifier_head` against plain torch and checks their answers; writes JSON.

python bench/bench_cuda_pool_head.py --out bench/results
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import machine
from assay import ops

SHAPES = [(1, 128, 384), (32, 128, 384), (256, 96, 768), (256, 512, 1024)]
"""(num_seqs, mean sequence length, hidden_size)."""


def measure(fn: Callable[[], object], warmup: int = 10, repeat: int = 50) -> dict[str, float]:
    """Median and p90 of one call in microseconds, by CUDA events."""
    for _ in range(warmup):
        fn()
    times = []
    for _ in range(repeat):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        fn()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000)
    return {"median_us": statistics.median(times), "p90_us": statistics.quantiles(times, n=10)[-1]}


def bench_pool(num_seqs: int, length: int, hidden_size: int) -> dict[str, Any]:
    """Mean pooling of lengths spread around `length`."""
    lengths = torch.randint(length // 2, length * 3 // 2 + 1, (num_seqs,))
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    x = torch.randn(int(offsets[-1]), hidden_size, device="cuda")
    cu_seqlens, out = offsets.int().cuda(), torch.empty(num_seqs, hidden_size, device="cuda")
    offsets = offsets.cuda()
    arguments = {
        "hidden_states": x.data_ptr(),
        "hidden_stride": hidden_size,
        "cu_seqlens": cu_seqlens.data_ptr(),
        "pooling": "mean",
        "out": out.data_ptr(),
        "num_seqs": num_seqs,
        "hidden_size": hidden_size,
        "stream": int(torch.cuda.current_stream().cuda_stream),
    }
    ours = measure(lambda: ops.cuda_module().pool(**arguments))  # type: ignore[union-attr]

    def torch_pool() -> torch.Tensor:
        return torch.segment_reduce(x, "mean", offsets=offsets, axis=0)

    error = (out - torch_pool()).abs().max().item()
    gigabytes_per_s = x.numel() * 4 / ours["median_us"] / 1e3
    return {"op": "pool", "ours": ours, "torch": measure(torch_pool), "error": error, "gb_per_s": gigabytes_per_s}


def bench_head(num_rows: int, hidden_size: int, num_labels: int = 2) -> dict[str, Any]:
    """Dense, tanh, classifier, softmax."""
    pooled = torch.randn(num_rows, hidden_size, device="cuda")
    dense, classifier = (
        torch.randn(n, hidden_size, device="cuda") / hidden_size**0.5 for n in (hidden_size, num_labels)
    )
    dense_bias, bias = torch.randn(hidden_size, device="cuda"), torch.randn(num_labels, device="cuda")
    codes = torch.full((num_rows,), ops.HEAD_ACTIVATIONS["softmax"], dtype=torch.uint8, device="cuda")
    buffer, out = torch.empty_like(pooled), torch.empty(num_rows, num_labels, device="cuda")
    arguments = {
        "pooled": pooled.data_ptr(),
        "dense_weight": dense.data_ptr(),
        "dense_bias": dense_bias.data_ptr(),
        "dense_activation": "tanh",
        "classifier_weight": classifier.data_ptr(),
        "classifier_bias": bias.data_ptr(),
        "logit_mean": 0.0,
        "logit_sigma": 1.0,
        "row_activations": codes.data_ptr(),
        "dense_buffer": buffer.data_ptr(),
        "out": out.data_ptr(),
        "num_rows": num_rows,
        "hidden_size": hidden_size,
        "dense_size": hidden_size,
        "num_labels": num_labels,
        "stream": int(torch.cuda.current_stream().cuda_stream),
    }
    ours = measure(lambda: ops.cuda_module().classifier_head(**arguments))  # type: ignore[union-attr]

    def torch_head() -> torch.Tensor:
        hidden = torch.tanh(torch.nn.functional.linear(pooled, dense, dense_bias))
        return torch.nn.functional.linear(hidden, classifier, bias).softmax(-1)

    error = (out - torch_head()).abs().max().item()
    return {"op": "classifier_head", "ours": ours, "torch": measure(torch_head), "error": error}


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    arguments = parser.parse_args()
    module = ops.cuda_module()
    if module is None or module.device_count() == 0:
        raise SystemExit("needs a GPU and a build with ASSAY_CUDA=ON")
    torch.manual_seed(0)
    rows = []
    for num_seqs, length, hidden_size in SHAPES:
        shape = {"num_seqs": num_seqs, "length": length, "hidden_size": hidden_size}
        for result in (bench_pool(num_seqs, length, hidden_size), bench_head(num_seqs, hidden_size)):
            rows.append({**shape, **result})
            ours, base = result["ours"], result["torch"]
            print(
                f"{result['op']:16} {num_seqs:4} x {length:4} x {hidden_size:5}: median {ours['median_us']:8.1f} us, "
                f"p90 {ours['p90_us']:8.1f}; torch {base['median_us']:8.1f} us; difference {result['error']:.1e}"
            )
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
        card = torch.cuda.get_device_name()
        path = arguments.out / f"cuda_pool_head_sm{module.sm()}_{date}.json"
        report = {"card": card, "sm": module.sm(), "torch": torch.__version__, "date": date, "commit": machine.commit()}
        path.write_text(json.dumps({**report, "rows": rows}, indent=1) + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
