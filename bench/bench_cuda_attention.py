"""Times the CUDA `attention_varlen` on ragged batches against torch's varlen attention and padded SDPA; writes JSON.

python bench/bench_cuda_attention.py --out bench/results

Device time: every contender is captured into a CUDA graph of CALLS calls, and the graphs take turns. SDPA gets its
tensors padded already. On a card of compute capability 9.0 attention_path="hopper" is a contender of its own. Errors
are those of a few sequences and heads against float64. The work list is built once per forward and its time is told
apart.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import machine
from assay import ops

CALLS = 10
ROUNDS = 15
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
NUM_HEADS = {64: 12, 128: 16}
CHECKED_SEQUENCES = 3
CHECKED_HEADS = 2


def make_lengths(workload: str) -> list[int]:
    """Sequence lengths of a workload, about 16,384 tokens each."""
    generator = torch.Generator().manual_seed(0)
    if workload == "2k":
        return [2048] * 8
    if workload == "8k":
        return [8192] * 2
    lengths: list[int] = []
    while sum(lengths) < 16384:
        if workload == "uniform 16-128":
            lengths.append(int(torch.randint(16, 129, (1,), generator=generator)))
        elif workload == "mixed 64-4k":
            lengths.append(int(torch.empty(1).log_normal_(6.8, 0.9, generator=generator).clamp(64, 4096)))
        else:
            lengths.append(int(torch.empty(1).log_normal_(5.3, 0.5, generator=generator).clamp(64, 512)))
    return lengths


WORKLOADS = ("uniform 16-128", "lognormal 64-512", "mixed 64-4k", "2k", "8k")
HOPPER_WORKLOADS = ("mixed 64-4k", "2k", "8k")
"""Those with sequences that are long enough for the Hopper path."""


@dataclass(frozen=True)
class Case:
    """A batch on the GPU: q, k, v [num_tokens, num_heads, head_dim], slices of one buffer as in a model."""

    lengths: list[int]
    is_causal: bool
    q: Tensor
    k: Tensor
    v: Tensor
    cu_seqlens: Tensor

    @property
    def longest(self) -> int:
        return max(self.lengths)


def make_case(lengths: list[int], head_dim: int, dtype: torch.dtype, is_causal: bool) -> Case:
    """Random unit-variance activations."""
    qkv = torch.randn(sum(lengths), 3, NUM_HEADS[head_dim], head_dim, device="cuda", dtype=dtype)
    offsets = torch.tensor([0, *lengths]).cumsum(0).int().cuda()
    return Case(lengths, is_causal, *qkv.unbind(1), offsets)


class Ours:
    """The module's two launches over one schedule."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.module: Any = ops.cuda_module()
        num_seqs = len(case.lengths)
        size = self.module.attention_schedule_size(num_tokens=case.q.shape[0], num_seqs=num_seqs)
        self.schedule = torch.empty(size, dtype=torch.uint8, device="cuda")
        self.out = torch.empty(case.q.shape, dtype=case.q.dtype, device="cuda")
        self.order()

    def order(self) -> None:
        """Builds the schedule."""
        self.module.attention_schedule(
            cu_seqlens=self.case.cu_seqlens.data_ptr(),
            cu_seqlens_k=self.case.cu_seqlens.data_ptr(),
            num_seqs=len(self.case.lengths),
            num_tokens=self.case.q.shape[0],
            is_causal=self.case.is_causal,
            schedule=self.schedule.data_ptr(),
            stream=int(torch.cuda.current_stream().cuda_stream),
        )

    def attend(self, attention_path: str = "portable") -> Tensor:
        """One attention."""
        q, k, v = self.case.q, self.case.k, self.case.v
        self.module.attention_varlen(
            q=q.data_ptr(),
            k=k.data_ptr(),
            v=v.data_ptr(),
            dtype=str(q.dtype).removeprefix("torch."),
            q_stride=q.stride(0),
            k_stride=k.stride(0),
            v_stride=v.stride(0),
            num_seqs=len(self.case.lengths),
            num_tokens=q.shape[0],
            num_key_tokens=k.shape[0],
            num_heads=q.shape[1],
            num_kv_heads=k.shape[1],
            head_dim=q.shape[2],
            softmax_scale=q.shape[2] ** -0.5,
            is_causal=self.case.is_causal,
            window_left=-1,
            window_right=-1,
            soft_cap=0.0,
            alibi_slopes=0,
            query_positions=0,
            out=self.out.data_ptr(),
            out_stride=self.out.stride(0),
            schedule=self.schedule.data_ptr(),
            stream=int(torch.cuda.current_stream().cuda_stream),
            attention_path=attention_path,
        )
        return self.out


def torch_varlen(case: Case) -> Callable[[], Tensor]:
    """torch.nn.attention.varlen, FlashAttention inside."""
    from torch.nn.attention.varlen import varlen_attn

    offsets, longest = case.cu_seqlens, case.longest
    window = (-1, 0) if case.is_causal else (-1, -1)
    q, k, v = case.q, case.k, case.v
    return lambda: varlen_attn(q, k, v, offsets, offsets, longest, longest, window_size=window)  # type: ignore[return-value]


def padded_sdpa(case: Case) -> Callable[[], Tensor]:
    """scaled_dot_product_attention over [num_seqs, num_heads, longest, head_dim], with a mask where lengths differ."""
    num_seqs, longest = len(case.lengths), case.longest
    tensors = [x.new_zeros(num_seqs, longest, *x.shape[1:]) for x in (case.q, case.k, case.v)]
    for padded, x in zip(tensors, (case.q, case.k, case.v), strict=True):
        for seq, rows in enumerate(x.split(case.lengths)):
            padded[seq, : len(rows)] = rows
    q, k, v = (x.transpose(1, 2).contiguous() for x in tensors)
    mask = None
    if min(case.lengths) < longest:
        key = torch.arange(longest, device="cuda")
        mask = (key < torch.tensor(case.lengths, device="cuda")[:, None])[:, None, None, :]
        if case.is_causal:
            mask = mask & (key <= key[:, None])
    is_causal = case.is_causal and mask is None
    attend = torch.nn.functional.scaled_dot_product_attention
    return lambda: attend(q, k, v, attn_mask=mask, is_causal=is_causal)


def unpad(out: Tensor, case: Case) -> Tensor:
    """[num_seqs, num_heads, longest, head_dim] -> [num_tokens, num_heads, head_dim]."""
    rows = out.transpose(1, 2)
    return torch.cat([rows[seq, :length] for seq, length in enumerate(case.lengths)])


def max_error(out: Tensor, case: Case) -> float:
    """Against float64, over the first heads of the longest, a middle and the shortest sequence."""
    order = sorted(range(len(case.lengths)), key=lambda seq: case.lengths[seq])
    picked = {order[0], order[len(order) // 2], order[-1]}
    worst = 0.0
    for seq in sorted(picked)[:CHECKED_SEQUENCES]:
        start = sum(case.lengths[:seq])
        rows = slice(start, start + case.lengths[seq])
        for head in range(CHECKED_HEADS):
            q, k, v = (x[rows, head].double() for x in (case.q, case.k, case.v))
            scores = q @ k.T * q.shape[1] ** -0.5
            if case.is_causal:
                scores.masked_fill_(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
            difference = (scores.softmax(-1) @ v - out[rows, head].double()).abs().max()
            # NaN must not lose against a number.
            worst = max(worst, float(difference)) if difference.isfinite() else float("nan")
    return worst


def capture(fn: Callable[[], object]) -> Callable[[], object]:
    """CALLS calls as one graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # warm, on a stream of its own as a capture asks for
        for _ in range(3):
            fn()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            fn()
    return graph.replay


def measure(contenders: dict[str, Callable[[], object]]) -> dict[str, dict[str, float]]:
    """Microseconds per call: the median of ROUNDS rounds in which all take turns, the least and the most."""
    replays = {name: capture(fn) for name, fn in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(ROUNDS + 1):
        for name, replay in replays.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            replay()
            end.record()
            end.synchronize()
            if turn > 0:
                times[name].append(start.elapsed_time(end) * 1000 / CALLS)
    return {
        name: {"median_us": statistics.median(us), "min_us": min(us), "max_us": max(us)} for name, us in times.items()
    }


def tera_flops(case: Case) -> float:
    """Of both products, counting only visible keys; in units of 1e12."""
    pairs = sum(n * (n + 1) / 2 if case.is_causal else n * n for n in case.lengths)
    return 4.0 * pairs * case.q.shape[1] * case.q.shape[2] / 1e12


def bench(workload: str, head_dim: int, dtype: torch.dtype, is_causal: bool) -> dict[str, Any]:
    """One row: times and errors of all contenders that run."""
    case = make_case(make_lengths(workload), head_dim, dtype, is_causal)
    ours = Ours(case)
    contenders: dict[str, Callable[[], object]] = {"ours": ours.attend, "schedule": ours.order}
    errors, missing = {"ours": max_error(ours.attend(), case)}, {}
    if workload in HOPPER_WORKLOADS and ours.module.sm(torch.cuda.current_device()) == 90:
        contenders["hopper"] = lambda: ours.attend("hopper")
        errors["hopper"] = max_error(ours.attend("hopper"), case)
    for name, make in (("torch_varlen", torch_varlen), ("padded_sdpa", padded_sdpa)):
        try:
            fn = make(case)
            out = fn()
            errors[name] = max_error(unpad(out, case) if name == "padded_sdpa" else out, case)
            contenders[name] = fn
        except (ImportError, RuntimeError, TypeError) as err:  # another torch, or no memory for the padding
            missing[name] = f"{type(err).__name__}: {str(err).splitlines()[0]}"
    shape = {"workload": workload, "num_seqs": len(case.lengths), "num_tokens": case.q.shape[0]}
    settings = {"num_heads": case.q.shape[1], "head_dim": head_dim, "is_causal": is_causal}
    times = measure(contenders)
    speed = tera_flops(case) / times["ours"]["median_us"] * 1e6
    return {**shape, **settings, "times": times, "errors": errors, "missing": missing, "ours_tflops": speed}


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    ours = row["times"]["ours"]["median_us"]
    mask = "causal" if row["is_causal"] else "full"
    cells = [f"{row['workload']:17} d{row['head_dim']:<4}{mask:7}{ours:9.1f} us {row['ours_tflops']:6.0f} TF/s"]
    for name, label in (("hopper", "hopper"), ("torch_varlen", "varlen"), ("padded_sdpa", "sdpa")):
        if name in row["times"]:
            cells.append(f"{label} {row['times'][name]['median_us'] / ours:5.2f} x, error {row['errors'][name]:.1e}")
    return "  ".join([*cells, f"ours {row['errors']['ours']:.1e}"])


def described(*command: str) -> str:
    """The first line of what a command prints; "unknown" where it fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return result.stdout.strip().splitlines()[0] if result.stdout.strip() else "unknown"


def main() -> None:
    """Run, write, print the table last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bfloat16")
    parser.add_argument("--head-dim", type=int, nargs="+", choices=sorted(NUM_HEADS), default=sorted(NUM_HEADS))
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    arguments = parser.parse_args()
    module = ops.cuda_module()
    if module is None or module.device_count() == 0:
        raise SystemExit("needs a GPU and a build with ASSAY_CUDA=ON")
    torch.manual_seed(0)
    rows = [
        bench(workload, head_dim, DTYPES[arguments.dtype], is_causal)
        for workload in arguments.workload
        for head_dim in arguments.head_dim
        for is_causal in (False, True)
    ]
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
        driver = described("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        report = {
            "card": torch.cuda.get_device_name(),
            "sm": module.sm(),
            "driver": driver,
            "torch": torch.__version__,
            "date": date,
            "commit": machine.commit(),
            "dtype": arguments.dtype,
            "rows": rows,
        }
        path = arguments.out / f"cuda_attention_sm{module.sm()}_{date}.json"
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(path)
    for name in sorted({f"{name}: {why}" for row in rows for name, why in row["missing"].items()}):
        print(name)
    print(f"{torch.cuda.get_device_name()}, {arguments.dtype}: time of ours, and of the others as multiples of it")
    print("\n".join(line(row) for row in rows))


if __name__ == "__main__":
    main()
