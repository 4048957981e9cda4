"""What the machine is and what it can do: CPU and versions, achievable GEMM, copy bandwidth, and foreign CPU load."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ISA_FLAGS = (
    "avx2 fma f16c avx512f avx512bw avx512vl avx512_vnni avx512_bf16 avx512_fp16 avx_vnni amx_tile amx_bf16 amx_int8"
).split()
PACKAGES = "assay torch transformers sentence-transformers tokenizers onnxruntime onnx openvino numpy".split()
GEMM_SIZES = (512, 1024, 2048)
SLOW_GEMM_S = 0.2
"""A product that takes this long is not tried larger: without instructions for it, bfloat16 takes minutes."""
PEAK_ARITHMETICS = ("float32_fma", "bfloat16")
COPY_BYTES = 256 << 20


def cpuinfo() -> dict[str, str]:
    """The first processor's block of /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    block = path.read_text().split("\n\n")[0] if path.exists() else ""
    lines = [line.split(":", 1) for line in block.splitlines() if ":" in line]
    return {key.strip(): value.strip() for key, value in lines}


def cpu_slug(info: dict[str, str]) -> str:
    """File-name form of the CPU, e.g. amd-epyc-f25m17; family and model are there because hosts mask names."""
    name = info.get("model name", platform.machine()).lower()
    name = re.sub(r"\(r\)|\(tm\)|cpu|processor|@.*", " ", name)
    slug = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    return f"{slug}-f{info['cpu family']}m{info['model']}" if "model" in info else slug


def describe() -> dict[str, Any]:
    """CPU, instruction sets, memory, kernel and package versions."""
    info = cpuinfo()
    flags = set(info.get("flags", "").split())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": info.get("model name", platform.processor()),
        "cpu_slug": cpu_slug(info),
        "isa": [flag for flag in ISA_FLAGS if flag in flags],
        "num_cpus": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def version(package: str) -> str | None:
    """Installed version, None if absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the working tree, with -dirty if it has changes; None outside git or without it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine: no reason to lose what was measured
        return None
    return result.stdout.strip() or None


def best_time(fn: Callable[[], object], clock: Callable[[], float], repeat: int = 7) -> float:
    """Shortest of `repeat` timings after one warm-up, in seconds: limits are about what the machine can do."""
    fn()
    times = []
    for _ in range(repeat):
        start = clock()
        fn()
        times.append(clock() - start)
    return min(times)


def limits(num_threads: int, clock: Callable[[], float]) -> dict[str, float | None]:
    """Large torch.mm in GFLOP/s, copy bandwidth (read + write) in GB/s, multiply-add peaks where assay is built."""
    import torch

    torch.set_num_threads(num_threads)
    result = peaks(num_threads)
    for dtype in (torch.float32, torch.bfloat16):
        result[f"gemm_{str(dtype).removeprefix('torch.')}_gflops"] = gemm_gflops(dtype, clock)
    source = torch.zeros(COPY_BYTES // 4)
    target = torch.zeros_like(source)
    result["copy_gbps"] = 2 * COPY_BYTES / best_time(lambda: target.copy_(source), clock) / 1e9
    return result


def gemm_gflops(dtype: Any, clock: Callable[[], float]) -> float:
    """torch.mm of square matrices, the largest size that does not take too long."""
    import torch

    rate = 0.0
    for size in GEMM_SIZES:
        a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
        out = torch.empty(size, size, dtype=dtype)
        seconds = best_time(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), clock)  # type: ignore[misc]
        rate = 2 * size**3 / seconds / 1e9
        if seconds > SLOW_GEMM_S:
            break
    return rate


def peaks(num_threads: int) -> dict[str, float | None]:
    """Multiply-add peaks on registers alone, by assay's own loops; None where assay is not built."""
    try:
        from assay import _cpu
    except ImportError:
        return {f"{arithmetic}_peak_gflops": None for arithmetic in PEAK_ARITHMETICS}
    _cpu.set_num_threads(num_threads)
    return {f"{arithmetic}_peak_gflops": _cpu.peak_flops(arithmetic) / 1e9 for arithmetic in PEAK_ARITHMETICS}


class ForeignLoad:
    """CPU time that other processes used while a block ran, in cores; tells which samples were disturbed."""

    def __enter__(self) -> ForeignLoad:
        self.start_s, self.start = time.perf_counter(), self.foreign_cpu_s()
        return self

    def __exit__(self, *_: object) -> None:
        self.cores = max(0.0, (self.foreign_cpu_s() - self.start) / (time.perf_counter() - self.start_s))

    @staticmethod
    def foreign_cpu_s() -> float:
        """CPU seconds of everybody (steal included) minus our own; 0 where /proc/stat is missing."""
        path = Path("/proc/stat")
        if not path.exists():
            return 0.0
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, path.read_text().split()[1:9])
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return busy - time.process_time()
