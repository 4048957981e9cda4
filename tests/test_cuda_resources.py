"""CI's check of the CUDA compiler's report: a spill is found, and so is a report that is not whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SERIALISED = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized\n"
CHECK = Path(__file__).parents[1] / ".ci" / "check_cuda_resources.py"
NAME = "_ZN5assay4cuda12_GLOBAL__N_111norm_kernelIfEEvNS0_10NormParamsEb"


def report(arch: str, stack: int = 0, stores: int = 0, loads: int = 0) -> str:
    return f"""\
[3/9] Building CUDA object norm.cu.o
ptxas info    : Compiling entry function '{NAME}' for 'sm_{arch}'
ptxas info    : Function properties for {NAME}
    {stack} bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 1024 bytes smem, 465 bytes cmem[0]
"""


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        (report("80") + report("90a"), 0, "2 functions, at most 40 registers, no stack frames and no spills"),
        (report("80") + report("90a", stack=8), 1, "norm_kernel sm_90a: 8 bytes of stack, 0 spilled, 0 read back"),
        (report("80", 0, 16, 24) + report("90a"), 1, "norm_kernel sm_80: 0 bytes of stack, 16 spilled, 24 read back"),
        (report("80") + SERIALISED + report("90a"), 1, "(C7510) Potential Performance Loss"),
        (report("80"), 1, "no report for sm 90a"),
        ("", 1, "no report for sm 80 90a"),
    ],
)
def test_resource_check_reads_the_report(text: str, status: int, message: str, tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text(text, encoding="utf-8")
    command = [sys.executable, str(CHECK), str(log), "80", "90a"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == status, result.stderr
    assert message in result.stdout
