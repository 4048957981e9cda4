"""Every CPU kernel by itself: GFLOP/s against the peak measured in the run, and against torch in the same dtype.

python bench/bench_kernels.py [--threads N] [--repeat N] [--quick] [--no-save]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import record
import report
import roofline

LINEAR_SHAPES = [(384, 1152), (384, 1536), (1536, 384), (768, 768), (768, 3072), (3072, 768), (1024, 4096)]
"""(in_features, out_features): MiniLM's, BERT-base's, and one of a 0.6 B decoder."""
GATED_SHAPES = [(1024, 3072)]
ATTENTION_SHAPES = [(12, 12, 32, False), (12, 12, 64, False), (16, 8, 128, True)]
"""(num_heads, num_kv_heads, head_dim, is_causal)."""
SEQLENS = [64, 128, 512]
TOKENS, QUICK_TOKENS = 4096, 512
PEAK_OF = {"float32": "float32_fma", "bfloat16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Case:
    """One call; flop and num_bytes are what it must compute and what it must read and write at least."""

    op: str
    shape: str
    dtype: str
    flop: float
    num_bytes: float
    ours: Callable[[], object]
    theirs: Callable[[], object] | None


def linear_cases(dtype: str, num_tokens: int) -> Iterator[Case]:
    """Dense products with a bias, against torch.nn.functional.linear (oneDNN or MKL)."""
    import torch

    from assay import ops

    torch_dtype = getattr(torch, dtype)
    for in_size, out_size in LINEAR_SHAPES:
        x = torch.randn(num_tokens, in_size)
        weight, bias = torch.randn(out_size, in_size) / in_size**0.5, torch.randn(out_size)
        packed = ops.pack_weight(weight.to(torch_dtype), bias, dtype)
        out = torch.empty(num_tokens, out_size)
        peer = tuple(tensor.to(torch_dtype) for tensor in (x, weight, bias))
        yield Case(
            "linear",
            f"{num_tokens} x {in_size} -> {out_size}",
            dtype,
            2.0 * num_tokens * in_size * out_size,
            4.0 * num_tokens * (in_size + out_size) + torch_dtype.itemsize * in_size * out_size,
            lambda x=x, packed=packed, out=out: ops.linear(x, packed, out=out),  # type: ignore[misc]
            lambda peer=peer: torch.nn.functional.linear(*peer),  # type: ignore[misc]
        )


def gated_cases(dtype: str, num_tokens: int) -> Iterator[Case]:
    """silu(x gate) * (x up) in one product, against two products and two elementwise passes."""
    import torch
    from torch.nn.functional import linear, silu

    from assay import ops

    torch_dtype = getattr(torch, dtype)
    for in_size, out_size in GATED_SHAPES:
        x = torch.randn(num_tokens, in_size)
        gate, up = (torch.randn(out_size, in_size).div_(in_size**0.5).to(torch_dtype) for _ in range(2))
        packed = ops.pack_gated_weight(gate, up, None, None, dtype)
        out, cast = torch.empty(num_tokens, out_size), x.to(torch_dtype)
        yield Case(
            "gated",
            f"{num_tokens} x {in_size} -> 2 x {out_size}",
            dtype,
            4.0 * num_tokens * in_size * out_size,
            4.0 * num_tokens * (in_size + out_size) + 2.0 * torch_dtype.itemsize * in_size * out_size,
            lambda x=x, packed=packed, out=out: ops.linear(  # type: ignore[misc]
                x, packed, activation="silu", out=out
            ),
            lambda cast=cast, gate=gate, up=up: silu(linear(cast, gate)) * linear(cast, up),  # type: ignore[misc]
        )


def attention_cases(dtype: str, num_tokens: int) -> Iterator[Case]:
    """Equal lengths, so that scaled_dot_product_attention, which pads, does no more work than we do."""
    import torch

    from assay import ops

    torch_dtype = getattr(torch, dtype)
    for num_heads, num_kv_heads, head_dim, is_causal in ATTENTION_SHAPES:
        for seqlen in SEQLENS:
            num_seqs = num_tokens // seqlen
            q, k, v = (
                torch.randn(num_seqs * seqlen, heads, head_dim).to(torch_dtype)
                for heads in (num_heads, num_kv_heads, num_kv_heads)
            )
            cu_seqlens = torch.arange(num_seqs + 1, dtype=torch.int32) * seqlen
            out = torch.empty_like(q)
            padded = tuple(t.view(num_seqs, seqlen, -1, head_dim).transpose(1, 2) for t in (q, k, v))
            keys = (seqlen + 1) / 2 if is_causal else seqlen
            yield Case(
                "attention",
                f"{num_seqs} x {seqlen}, {num_heads}/{num_kv_heads} heads of {head_dim}{', causal' * is_causal}",
                dtype,
                4.0 * num_seqs * seqlen * keys * num_heads * head_dim,
                torch_dtype.itemsize * 2.0 * num_seqs * seqlen * (num_heads + num_kv_heads) * head_dim,
                lambda q=q, k=k, v=v, cu=cu_seqlens, n=seqlen, causal=is_causal, out=out: (  # type: ignore[misc]
                    ops.attention_varlen(q, k, v, cu, n, is_causal=causal, out=out)
                ),
                lambda padded=padded, causal=is_causal: torch.nn.functional.scaled_dot_product_attention(  # type: ignore[misc]
                    *padded, is_causal=causal, enable_gqa=True
                ),
            )


def row_cases(num_tokens: int, hidden_size: int = 768) -> Iterator[Case]:
    """Norms and pooling, float32: bound by memory, so bytes tell more than operations."""
    import torch

    from assay import ops

    x, residual, weight, bias = (torch.randn(n, hidden_size).squeeze(0) for n in (num_tokens, num_tokens, 1, 1))
    out = torch.empty_like(x)
    lengths = torch.full((num_tokens // 64,), 64)
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    cu32, pooled = cu_seqlens.int(), torch.empty(len(lengths), hidden_size)
    numbers, shape = float(num_tokens * hidden_size), f"{num_tokens} x {hidden_size}"
    yield Case(
        "layer_norm",
        f"{shape} + residual",
        "float32",
        8 * numbers,
        12 * numbers,
        lambda: ops.layer_norm(x, weight, bias, 1e-5, residual=residual, out=out),
        lambda: torch.nn.functional.layer_norm(x + residual, (hidden_size,), weight, bias),
    )
    yield Case(
        "rms_norm",
        shape,
        "float32",
        4 * numbers,
        8 * numbers,
        lambda: ops.rms_norm(x, weight, 1e-6, out=out),
        lambda: torch.nn.functional.rms_norm(x, (hidden_size,), weight, 1e-6),
    )
    yield Case(
        "pool mean",
        f"{shape}, sequences of 64",
        "float32",
        numbers,
        4 * numbers,
        lambda: ops.pool(x, cu32, "mean", out=pooled),
        lambda: torch.segment_reduce(x, "mean", offsets=cu_seqlens, axis=0),
    )


def times_of(case: Case, repeat: int) -> tuple[list[float], list[float]]:
    """Seconds of `repeat` calls of each side, taken in turns after one call each."""
    sides = [case.ours] + ([case.theirs] if case.theirs is not None else [])
    for side in sides:
        side()
    found: list[list[float]] = [[], []]
    for _ in range(repeat):
        for seconds, side in zip(found, sides, strict=False):
            start = time.perf_counter()
            side()
            seconds.append(time.perf_counter() - start)
    return found[0], found[1]


def measured(case: Case, repeat: int) -> dict[str, Any]:
    """One row: every sample, and the rates of the median."""
    ours, theirs = times_of(case, repeat)
    median_s = statistics.median(ours)
    return {
        "op": case.op,
        "shape": case.shape,
        "dtype": case.dtype,
        "flop": case.flop,
        "bytes": case.num_bytes,
        "samples_s": ours,
        "torch_samples_s": theirs,
        "gflops": case.flop / median_s / 1e9,
        "gbps": case.num_bytes / median_s / 1e9,
        "times_torch": statistics.median(theirs) / median_s if theirs else None,
    }


def add_shares(rows: list[dict[str, Any]], limits: report.Limits) -> None:
    """Put the share of the peak of its arithmetic into every row; None where assay's peak is not known."""
    for row in rows:
        peak = limits[f"{PEAK_OF[row['dtype']]}_peak_gflops"]
        row["share_of_peak"] = None if peak is None else row["gflops"] / peak


def shown(row: dict[str, Any]) -> list[str]:
    """A row as text."""
    low, high = min(row["samples_s"]), max(row["samples_s"])
    share = "-" if row["share_of_peak"] is None else f"{100 * row['share_of_peak']:.1f} %"
    return [
        row["op"],
        row["dtype"],
        f"{row['gflops']:.1f}",
        f"{row['flop'] / high / 1e9:.1f}..{row['flop'] / low / 1e9:.1f}",
        f"{row['gbps']:.1f}",
        share,
        f"{row['times_torch']:.2f}x",
        row["shape"],
    ]


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--dtypes", default="float32,bfloat16", help="comma-separated")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TOKENS} tokens, 3 calls: a smoke test")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    args.dtypes = args.dtypes.split(",")
    if set(args.dtypes) - set(PEAK_OF):
        parser.error(f"--dtypes: choose from {sorted(PEAK_OF)}, got {args.dtypes}")
    return args


def main() -> None:
    """Run, print, save."""
    import torch

    args = parse_args()
    num_tokens, repeat = (QUICK_TOKENS, 3) if args.quick else (TOKENS, args.repeat)
    torch.manual_seed(0)
    limits = [machine.limits(args.threads, time.perf_counter)]
    rows = []
    for dtype in args.dtypes:
        for cases in (linear_cases, gated_cases, attention_cases):
            rows += [measured(case, repeat) for case in cases(dtype, num_tokens)]
    rows += [measured(case, repeat) for case in row_cases(num_tokens)]
    limits.append(machine.limits(args.threads, time.perf_counter))
    best = report.best_limits(limits)
    add_shares(rows, best)
    print(f"{args.threads} threads; {report.format_limits(best)}\n")
    names = ["op", "dtype", "GFLOP/s", "min..max", "GB/s", "of peak", "vs torch", "shape"]
    print(report.format_table(names, [shown(row) for row in rows]))
    if not args.no_save and not args.quick:
        header = record.header("kernels", args.threads, limits)
        path: Path = record.path_of("kernels", header)
        record.write(path, header | {"rows": rows})
        roofline.write_plot(record.picture(path), record.title(header), rows, best)


if __name__ == "__main__":
    main()
