"""How many instructions a transformer layer takes per token on every instruction set, counted on an interpreted CPU.

python bench/bench_instructions.py [--tokens 256] [--no-save]

The machine code that is installed, executed as on a Sapphire Rapids (docs/kernels.md): no time is measured, so it needs
no quiet machine and none with those instructions, and a second run counts the same. The layer is MiniLM's, in sequences
of 128 tokens, on one thread. Needs `make emulation`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import interpreted_cpu
import record
import report

LENGTH = 128
HIDDEN, INNER, HEADS = 384, 1536, 12
RUNS = {
    "avx2": ("float32", "bfloat16", "int8"),
    "avx2_vnni": ("bfloat16", "int8"),
    "avx512": ("float32", "bfloat16", "int8"),
    "avx512_vnni": ("bfloat16", "int8"),
    "avx512_bf16": ("bfloat16",),
    "amx": ("float32", "bfloat16", "int8"),
}
"""Where an arithmetic is not that of the narrower set before."""

MULTIPLY_ADDS = ("VFMADD", "VFNMADD", "VPDP", "VDPBF16", "VPMADD")
MOVES = ("VMOV", "VBROADCAST", "VPBROADCAST", "VINSERT", "VEXTRACT")
NOT_INSTRUCTIONS = ("BX_INSERTED_OPCODE", "BX_IA_ERROR")
"""Marks between Bochs' pieces of code; and to Bochs the tile instructions, which are counted apart."""
KINDS = ("tile products", "tile moves", "multiply-adds", "other vector", "vector moves", "scalar")


def kind_of(name: str) -> str:
    """Of an instruction by Bochs' name, such as BX_IA_V512_VPDPBUSD_VdqHdqWdq."""
    plain = name.removeprefix("BX_IA_").removeprefix("EVEX_")
    for width in ("V128_", "V256_", "V512_"):
        plain = plain.removeprefix(width)
    if plain.startswith(MULTIPLY_ADDS):
        return "multiply-adds"
    if plain.startswith(MOVES):
        return "vector moves"
    return "other vector" if plain.startswith("V") else "scalar"


def make_layer(arithmetic: str) -> Any:
    """A packed block with random weights."""
    import torch

    from assay.layers import EncoderLayer, LayerNorm, Linear

    generator = torch.Generator().manual_seed(0)

    def linear(rows: int, columns: int) -> Linear:
        weight = torch.randn(rows, columns, generator=generator) / columns**0.5
        return Linear.pack(weight, torch.randn(rows, generator=generator), arithmetic)

    def norm() -> LayerNorm:
        return LayerNorm(torch.ones(HIDDEN), torch.zeros(HIDDEN), 1e-12)

    return EncoderLayer.fuse(
        qkv=linear(3 * HIDDEN, HIDDEN).packed,
        attn_out=linear(HIDDEN, HIDDEN),
        attn_norm=norm(),
        mlp_up=linear(INNER, HIDDEN),
        mlp_down=linear(HIDDEN, INNER),
        mlp_norm=norm(),
        activation="gelu",
        num_heads=HEADS,
        softmax_scale=(HIDDEN // HEADS) ** -0.5,
    ).layer


def count(num_tokens: int, file: str) -> None:
    """In a process that interprets: every run's counts per token, to `file`."""
    interpreter = interpreted_cpu.install("sapphire_rapids")
    import torch

    from assay import ops
    from assay.arena import Arena, aligned
    from assay.batch import Sequence, pack

    batch = pack([Sequence([0] * LENGTH) for _ in range(num_tokens // LENGTH)])
    rows = []
    for isa, arithmetics in RUNS.items():
        ops.cpu_module().set_active_isa(isa)
        for arithmetic in arithmetics:
            layer = make_layer(arithmetic)
            size = layer.workspace_size(batch.num_tokens, batch.num_seqs)
            workspace = Arena(aligned(size)).take((size,), torch.uint8)
            x = torch.randn(batch.num_tokens, HIDDEN, generator=torch.Generator().manual_seed(1))
            layer(x, batch, workspace)  # what is set up once is not counted
            tiles = interpreter.tile_counts()
            interpreter.count()
            layer(x, batch, workspace)
            counts = interpreter.counts()
            executed = {name: number - tiles[name] for name, number in interpreter.tile_counts().items()}
            kinds = Counter({"tile products": executed["products"], "tile moves": executed["moves"]})
            for name in counts.keys() - set(NOT_INSTRUCTIONS):
                kinds[kind_of(name)] += counts[name]
            per_token = {kind: kinds[kind] / batch.num_tokens for kind in KINDS}
            rows.append({"isa": isa, "arithmetic": arithmetic, "per_token": per_token, "instructions": counts})
    Path(file).write_text(json.dumps(rows), encoding="utf-8")


def main() -> None:
    """Run, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2 * LENGTH)
    parser.add_argument("--no-save", action="store_true")
    parser.add_argument("--count-into", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.count_into:
        return count(args.tokens, args.count_into)
    if (missing := interpreted_cpu.missing()) is not None:
        sys.exit(missing)
    file = interpreted_cpu.BUILD / "instructions.json"
    process = interpreted_cpu.run_python(__file__, "--tokens", str(args.tokens), "--count-into", str(file))
    if process.returncode != 0:
        sys.exit(process.stderr)
    rows = json.loads(file.read_text(encoding="utf-8"))
    shown = [[row["isa"], row["arithmetic"], *(f"{row['per_token'][kind]:,.0f}" for kind in KINDS)] for row in rows]
    print(report.format_table(["isa", "arithmetic", *KINDS], shown))
    if not args.no_save:
        header = record.facts("instructions", 1) | {"layer": {"hidden": HIDDEN, "inner": INNER, "heads": HEADS}}
        record.write(record.path_of("instructions-minilm-layer", header), header | {"rows": rows}, has_picture=False)
    return None


if __name__ == "__main__":
    main()
