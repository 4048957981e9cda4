"""Times the dense products of four models on a GPU: our own kernel, and cuBLASLt with one algorithm for any number of
rows, against `torch.nn.functional.linear`, which picks an algorithm by the number of rows. The ratio is what batch
invariance costs. Writes JSON.

python bench/bench_cuda_linear.py --out bench/results
"""

from __future__ import annotations

import argparse
import datetime
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import machine
from assay import ops
from bench_cuda_pool_head import measure

NUM_ROWS = (128, 1024, 16384)
WORKSPACE_BYTES = 32 << 20


@dataclass(frozen=True)
class Shape:
    """A product of a model's layer; a gated one has twice out_features rows of weight."""

    model: str
    product: str
    out_features: int
    in_features: int
    activation: str = "none"
    is_gated: bool = False


def encoder(model: str, hidden: int, inner: int) -> list[Shape]:
    """The products of a BERT-like layer."""
    return [
        Shape(model, "qkv", 3 * hidden, hidden),
        Shape(model, "attn_out", hidden, hidden),
        Shape(model, "mlp_up", inner, hidden, "gelu"),
        Shape(model, "mlp_down", hidden, inner),
    ]


def decoder(model: str, hidden: int, inner: int, q_size: int, kv_size: int) -> list[Shape]:
    """The products of a Llama-like layer."""
    return [
        Shape(model, "qkv", q_size + 2 * kv_size, hidden),
        Shape(model, "attn_out", hidden, q_size),
        Shape(model, "mlp_up", inner, hidden, "silu", is_gated=True),
        Shape(model, "mlp_down", hidden, inner),
    ]


SHAPES = [
    *encoder("MiniLM-L6", 384, 1536),
    *encoder("XLM-R-large", 1024, 4096),
    *decoder("Qwen3-0.6B", 1024, 3072, 2048, 1024),
    *decoder("Qwen2.5-1.5B", 1536, 8960, 1536, 256),
]

TORCH_ACTIVATIONS = {"none": lambda x: x, "gelu": torch.nn.functional.gelu, "silu": torch.nn.functional.silu}


def torch_product(shape: Shape, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same out of torch's functions."""
    wide = torch.nn.functional.linear(x, weight, bias)
    if not shape.is_gated:
        return TORCH_ACTIVATIONS[shape.activation](wide)
    gate, up = wide.chunk(2, dim=1)
    return TORCH_ACTIVATIONS[shape.activation](gate) * up


def bench(shape: Shape, num_rows: int, dtype: torch.dtype, library: Any) -> dict[str, Any]:
    """Times of one product; seconds of nothing but it, its weight warm in the L2 cache where it fits."""
    module: Any = ops.cuda_module()
    stream = int(torch.cuda.current_stream().cuda_stream)
    matrices = 2 if shape.is_gated else 1
    x = torch.randn(num_rows, shape.in_features, device="cuda", dtype=dtype)
    weight = torch.randn(matrices * shape.out_features, shape.in_features, device="cuda", dtype=dtype)
    weight /= shape.in_features**0.5
    bias = torch.randn(matrices * shape.out_features, device="cuda")
    out = torch.empty(num_rows, shape.out_features, device="cuda", dtype=dtype)
    packed = module.Weight(weight, bias, shape.is_gated)
    expected = torch_product(shape, x, weight, bias.to(dtype)).float()
    result: dict[str, Any] = {"torch": measure(lambda: torch_product(shape, x, weight, bias.to(dtype)))}
    for name, cublas_lt in (("own", None), ("chosen", library)):
        product = module.Product(packed, shape.activation, cublas_lt, stream)
        scratch = torch.empty(product.scratch_size(num_rows), dtype=torch.uint8, device="cuda")

        def run(product: Any = product, scratch: Tensor = scratch) -> None:
            product.multiply(x, out, scratch, stream)

        result[name] = {**measure(run), "kernel": product.name}
        result[name]["error"] = (out.float() - expected).abs().max().item()
        result[name]["ratio"] = result["torch"]["median_us"] / result[name]["median_us"]
    flops = 2 * num_rows * weight.numel()
    result["own_tflop_per_s"] = flops / result["own"]["median_us"] / 1e6
    result["torch_tflop_per_s"] = flops / result["torch"]["median_us"] / 1e6
    return result


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    arguments = parser.parse_args()
    module: Any = ops.cuda_module()
    if module is None or module.device_count() == 0:
        raise SystemExit("needs a GPU and a build with ASSAY_CUDA=ON")
    torch.manual_seed(0)
    dtype = getattr(torch, arguments.dtype)
    library = module.open_cublas_lt(torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device="cuda"))
    print(f"cuBLASLt {library.version}" if library.version else f"own kernels only: {library.failure}")
    rows = []
    for shape in SHAPES:
        for num_rows in NUM_ROWS:
            result = bench(shape, num_rows, dtype, library)
            rows.append({"model": shape.model, "product": shape.product, "num_rows": num_rows, **result})
            own, chosen = result["own"], result["chosen"]
            print(
                f"{shape.model:13} {shape.product:9} {num_rows:6} rows: torch {result['torch']['median_us']:8.1f} us, "
                f"own {own['median_us']:8.1f} us ({own['ratio']:.2f} x), chosen {chosen['median_us']:8.1f} us "
                f"({chosen['ratio']:.2f} x, {chosen['kernel']}), difference {max(own['error'], chosen['error']):.1e}"
            )
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
        path = arguments.out / f"cuda_linear_{arguments.dtype}_sm{module.sm()}_{date}.json"
        report = {
            "card": torch.cuda.get_device_name(),
            "sm": module.sm(),
            "torch": torch.__version__,
            "cublas_lt": library.version,
            "date": date,
            "commit": machine.commit(),
        }
        path.write_text(json.dumps({**report, "rows": rows}, indent=1) + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
