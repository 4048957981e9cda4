"""Reranking held to one instruction set: assay forced to it against the best float32 peer forced to it.

python bench/bench_isa.py [--isas avx2,avx512] [--model minilm] [--rounds N] [--quick] [--no-save]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import checkpoints
import record
import report
from plot import OUR_COLOUR, PEER_COLOUR

SETTINGS = {
    "avx2": {
        "ASSAY_FORCE_ISA": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "DNNL_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "avx512": {
        "ASSAY_FORCE_ISA": "avx512",
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "DNNL_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
}
"""Environment of a process; torch's kernels are ATen's, oneDNN's and MKL's."""
OURS = "assay-f32"
PEERS = ("st-f32",)
"""Those whose kernels are all known to follow these variables; of ONNX Runtime's and OpenVINO's that is not known."""
NATIVE_PEERS = ("ort-f32", "openvino-f32")
"""They compete where an instruction set is all that the machine has, so that nobody need be held to it."""


def parse_args() -> argparse.Namespace:
    """The command line; what is not known here goes to bench_rerank.py."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isas", help="comma-separated, default: those of this machine")
    parser.add_argument("--model", choices=list(checkpoints.BUILDERS), default="minilm")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patience", type=float, default=20.0, help="seconds to wait for a quiet machine per turn")
    parser.add_argument("--quick", action="store_true", help="as of bench_rerank.py: a smoke test")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    available = [isa for isa in SETTINGS if isa in isas_here()]
    args.isas = available if args.isas is None else args.isas.split(",")
    if not args.isas or set(args.isas) - set(available):
        parser.error(f"--isas: this machine offers {available} of {list(SETTINGS)}, got {args.isas}")
    return args


def isas_here() -> tuple[str, ...]:
    """What assay can run on this machine."""
    from assay import ops

    return ops.available_isas()


def peers_of(isa: str) -> tuple[str, ...]:
    """Who can be compared with under `isa`."""
    return PEERS + NATIVE_PEERS if isa == isas_here()[-1] else PEERS


def run(isa: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """bench_rerank.py in a process whose libraries are held to `isa`; its JSON."""
    target = folder / f"{isa}.json"
    command = [sys.executable, str(Path(__file__).with_name("bench_rerank.py")), "--no-save", "--json", str(target)]
    command += ["--model", args.model, "--contenders", ",".join([*peers_of(isa), OURS]), "--threads", str(args.threads)]
    command += ["--rounds", str(args.rounds), "--patience", str(args.patience)] + ["--quick"] * args.quick
    subprocess.run(command, env=os.environ | SETTINGS[isa], check=True)
    result: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return result


def rows_of(isa: str, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The batch and the pair: our seconds, those of the fastest peer, and their quotient."""
    measurements = result["models"][0]["measurements"]
    rows = []
    for name in result["models"][0]["workloads"]:
        chosen = {m["contender"]: m for m in measurements if m["workload"] == name}
        rivals = [chosen[peer] for peer in peers_of(isa) if peer in chosen]
        if OURS not in chosen or not rivals:
            raise SystemExit(f"{isa}: nothing to compare, skipped: {result['models'][0]['skipped']}")
        best = min(rivals, key=lambda m: m["median_s"])
        rows.append(
            {
                "isa": isa,
                "workload": name,
                "assay_s": chosen[OURS]["median_s"],
                "peer": best["contender"],
                "peer_s": best["median_s"],
                "times_peer": best["median_s"] / chosen[OURS]["median_s"],
                "is_clean": chosen[OURS]["is_clean"] and best["is_clean"],
            }
        )
    return rows


def shown(row: dict[str, Any]) -> list[str]:
    """A row as text; a mark where others used the machine."""
    seconds = [f"{1e3 * row[key]:.1f}" for key in ("assay_s", "peer_s")]
    return [
        row["isa"],
        row["workload"],
        *seconds,
        f"{row['times_peer']:.2f}x{'' if row['is_clean'] else '!'}",
        row["peer"],
    ]


def write_plot(path: Path, title: str, rows: list[dict[str, Any]]) -> None:
    """Ours and the best peer's seconds, a pair of bars per instruction set and workload."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    figure, grid = plt.subplots(1, len(workloads), figsize=(5 * len(workloads), 3), squeeze=False)
    for axes, name in zip(grid[0], workloads, strict=True):
        for position, row in enumerate(item for item in rows if item["workload"] == name):
            axes.bar(position - 0.2, 1e3 * row["peer_s"], 0.4, color=PEER_COLOUR)
            axes.bar(position + 0.2, 1e3 * row["assay_s"], 0.4, color=OUR_COLOUR)
            axes.annotate(f"{row['times_peer']:.2f}x", (position + 0.2, 1e3 * row["assay_s"]), ha="center", fontsize=8)
        labels = [row["isa"] for row in rows if row["workload"] == name]
        axes.set_xticks(range(len(labels)), labels)
        axes.set_ylabel("milliseconds (less is better)")
        axes.set_title(f"{name}: best float32 peer (grey), assay", fontsize=9)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Run, print, save."""
    args = parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = {isa: run(isa, args, Path(folder)) for isa in args.isas}
    rows = [row for isa, result in results.items() for row in rows_of(isa, result)]
    print(
        report.format_table(["isa", "workload", "assay ms", "peer ms", "faster", "peer"], [shown(row) for row in rows])
    )
    if not args.no_save and not args.quick:
        limits = [result["limits"] for result in results.values()]
        header = record.header("isa", args.threads, limits) | {"settings": {isa: SETTINGS[isa] for isa in args.isas}}
        path = record.path_of(f"isa-{args.model}", header)
        record.write(path, header | {"rows": rows, "runs": results})
        write_plot(record.picture(path), record.title(header), rows)


if __name__ == "__main__":
    main()
