"""One small call of every kernel, for comparing builds and machines bit by bit.

python tests/kernel_cases.py CPU_MODEL FILE ISA... runs them on an interpreted CPU and writes {"isas": the module's own,
"results": {isa: {case: tensor}}, "tile_instructions": how many} to FILE.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import reference
from assay import ops

ARITHMETICS = ("float32", "bfloat16", "int8")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LENGTHS = [1, 33, 0, 14, 7, 60, 2]
FILLED = [length for length in LENGTHS if length]
ROWS, DEPTH, COLS = 53, 200, 70  # none a multiple of what the kernels take at once


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(arithmetic: str, activation: str) -> Tensor:
    weight = ops.pack_weight(random(COLS, DEPTH, seed=1), random(COLS, seed=2), arithmetic)
    return ops.linear(random(ROWS, DEPTH), weight, activation=activation, residual=random(ROWS, COLS, seed=3))


def largest(arithmetic: str) -> Tensor:
    """Inputs and weights at the ends of their scales, with signs alike: what could saturate does."""
    return ops.linear(
        torch.full((ROWS, DEPTH), 3.0), ops.pack_weight(torch.full((COLS, DEPTH), -2.0), None, arithmetic)
    )


def gated_linear(arithmetic: str) -> Tensor:
    gate, up = random(COLS, DEPTH, seed=1), random(COLS, DEPTH, seed=2)
    weight = ops.pack_gated_weight(gate, up, random(COLS, seed=3), None, arithmetic)
    return ops.linear(random(ROWS, DEPTH), weight, activation="silu")


def attention(dtype: torch.dtype, head_dim: int, **settings: Any) -> Tensor:
    q = random(sum(LENGTHS), 4, head_dim)
    k, v = random(sum(LENGTHS), 2, head_dim, seed=1), random(sum(LENGTHS), 2, head_dim, seed=2)
    lengths = reference.cu_seqlens(LENGTHS)
    return ops.attention_varlen(q.to(dtype), k.to(dtype), v.to(dtype), lengths, max(LENGTHS), **settings)


def layer(family: str, arithmetic: str, has_rows: bool) -> Tensor:
    import layer_runs
    import reference_layer

    block = reference_layer.Layer(reference_layer.FAMILIES[family], arithmetic)
    rows = torch.tensor(FILLED).cumsum(0).int() - 1 if has_rows else None
    return layer_runs.run(block, layer_runs.make_input(FILLED, block.config.hidden), FILLED, rows)


def embed(dtype: torch.dtype) -> Tensor:
    ids = torch.arange(ROWS, dtype=torch.int32)
    words, positions, types = random(ROWS, DEPTH), random(ROWS, DEPTH, seed=1), random(2, DEPTH, seed=2)
    tables = (words.to(dtype), positions.to(dtype), types.to(dtype), None)
    return ops.embed(ids, ids.flip(0), ids % 2, *tables, random(DEPTH, seed=3), random(DEPTH, seed=4), 1e-12)


def rotary(dtype: torch.dtype) -> Tensor:
    q, k = random(ROWS, 4, 24).to(dtype), random(ROWS, 2, 24, seed=1).to(dtype)
    angles = random(40, 12, seed=2)
    norm = random(24, seed=3)
    positions = torch.arange(ROWS, dtype=torch.int32) % 40
    ops.rotary(q, k, angles.cos(), angles.sin(), positions, q_norm=norm, k_norm=norm, epsilon=1e-6)
    return torch.cat([q, k], dim=1)


def head(activation: str) -> Tensor:
    dense, classifier = (
        ops.pack_weight(random(size, DEPTH, seed=size), random(size), "float32_fma") for size in (DEPTH, 5)
    )
    codes = torch.full((ROWS,), ops.HEAD_ACTIVATIONS[activation], dtype=torch.uint8)
    return ops.classifier_head(random(ROWS, DEPTH), classifier, codes, dense=dense, logit_mean=0.1, logit_sigma=2.0)


def pool(pooling: str) -> Tensor:
    return ops.pool(random(sum(FILLED), DEPTH), reference.cu_seqlens(FILLED), pooling)


def convolution() -> Tensor:
    x, weight = random(sum(LENGTHS), COLS), random(4, COLS, seed=1)
    return ops.causal_conv1d(x, weight, random(COLS, seed=2), reference.cu_seqlens(LENGTHS), activation="silu")


def scan() -> Tensor:
    num_tokens = sum(LENGTHS)
    u, delta, z = (random(num_tokens, COLS, seed=seed) for seed in range(3))
    b, c, a = random(num_tokens, 18, seed=3), random(num_tokens, 18, seed=4), -random(18, COLS, seed=5).exp()
    return ops.selective_scan(u, delta, a, b, c, random(COLS, seed=6), reference.cu_seqlens(LENGTHS), z=z)


CASES: dict[str, Callable[[], Tensor]] = {
    **{f"linear-{a}-{act}": partial(linear, a, act) for a in ARITHMETICS for act in ("gelu", "gelu_tanh", "silu")},
    **{f"largest-{a}": partial(largest, a) for a in ARITHMETICS},
    **{f"gated_linear-{a}": partial(gated_linear, a) for a in ARITHMETICS},
    **{
        f"attention-{name}-{head_dim}": partial(attention, dtype, head_dim)
        for name, dtype in DTYPES.items()
        for head_dim in (32, 40, 128)
    },
    "attention-causal": partial(attention, torch.bfloat16, 64, is_causal=True),
    "attention-window": partial(attention, torch.bfloat16, 64, window_size=(8, 5), soft_cap=3.0),
    **{f"layer-{f}-{a}": partial(layer, f, a, False) for f in ("bert", "gemma2") for a in ARITHMETICS},
    **{f"layer_rows-{f}-bfloat16": partial(layer, f, "bfloat16", True) for f in ("qwen3", "modernbert_local")},
    "layer_norm": lambda: ops.layer_norm(random(ROWS, DEPTH), random(DEPTH, seed=1), random(DEPTH, seed=2), 1e-5),
    "rms_norm": lambda: ops.rms_norm(random(ROWS, DEPTH), random(DEPTH, seed=1), 1e-6),
    **{f"embed-{name}": partial(embed, dtype) for name, dtype in DTYPES.items()},
    **{f"rotary-{name}": partial(rotary, dtype) for name, dtype in DTYPES.items()},
    **{f"pool-{pooling}": partial(pool, pooling) for pooling in ("cls", "last_token", "mean")},
    "causal_conv1d": convolution,
    "selective_scan": scan,
    **{f"head-{activation}": partial(head, activation) for activation in ops.HEAD_ACTIVATIONS},
}


def main(cpu_model: str, file: str, *isas: str) -> None:
    import interpreted_cpu

    interpreter = interpreted_cpu.install(cpu_model)
    module = ops.cpu_module()
    results = {}
    for isa in isas:
        module.set_active_isa(isa)
        results[isa] = {name: compute() for name, compute in CASES.items()}
    found = {"isas": module.available_isas(), "results": results}
    torch.save(found | {"tile_instructions": sum(interpreter.tile_counts().values())}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
