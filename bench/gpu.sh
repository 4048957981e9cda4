#!/usr/bin/env bash
# Everything that wants a GPU, in one run: build with CUDA, test, measure into bench/results.
#
#   PYTHON=python3 bench/gpu.sh
#
# PYTHON must have a CUDA build of torch. PIP_ARGS are passed to pip install, for instance
# "--no-deps --no-build-isolation" on a machine without a package index.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
read -r -a pip_args <<<"${PIP_ARGS:-}"

nvidia-smi --query-gpu=name,driver_version,compute_cap --format=csv,noheader
"$python" -c 'import torch; assert torch.cuda.is_available(), "torch sees no GPU"; print("torch", torch.__version__)'
"$python" -m pip install "${pip_args[@]}" --config-settings=cmake.define.ASSAY_CUDA=ON '.[dev]'
"$python" -m pytest tests/test_cuda_*.py
"$python" bench/bench_cuda_pool_head.py --out bench/results
echo "now update docs/gpu-status.md"
