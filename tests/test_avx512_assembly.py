"""The assembly of AVX-512 kernels, which the emulation replaces: its text, as compiled, run by an interpreter."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from avx512_text import FIRST_ADDRESS, Machine

CSRC = Path(__file__).parents[1] / "csrc"
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
ROWS, COLS, DEPTH = 10, 32, 128

SOURCE = """
#include <immintrin.h>
using IntVec = __m512i;
#include "cpu/gemm_avx512.h"
void sums_of(const char* x, const char* w, IntVec (&sums)[10][2]) { int8_block_sums(x, w, sums); }
"""

pytestmark = pytest.mark.skipif(
    COMPILER is None or platform.machine() != "x86_64", reason="needs a C++ compiler for x86-64"
)


@pytest.fixture(scope="module", params=["", "-mavx512vnni"], ids=["avx512bw", "vnni"])
def assembly(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("assembly")
    (folder / "block.cpp").write_text(SOURCE)
    flags = ["-S", "-O2", "-std=c++20", "-mavx512f", "-mavx512bw", *request.param.split(), "-I", str(CSRC)]
    subprocess.run([str(COMPILER), *flags, "block.cpp", "-o", "block.s"], cwd=folder, check=True)
    printed = (folder / "block.s").read_text()
    return re.findall(r"#APP(.*?)#NO_APP", printed, re.DOTALL)[-1]


@pytest.mark.parametrize("case", ["random", "largest", "one"])
def test_int8_block_sums_are_the_products(assembly: str, case: str) -> None:
    generator = np.random.default_rng(7)
    inputs = generator.integers(0, 182, (ROWS, DEPTH))
    weights = generator.integers(-45, 46, (DEPTH, COLS))  # four together stay within 181, as packing keeps them
    if case == "largest":
        inputs[:], weights[:] = 181, -45
    if case == "one":
        inputs[:], weights[:] = 0, 0
        inputs[3, 77], weights[77, 21] = 181, -128
    # Weights lie as quads of depths: [DEPTH / 4][COLS][4].
    packed = weights.reshape(DEPTH // 4, 4, COLS).transpose(0, 2, 1).astype(np.int8)
    x, w, sums = FIRST_ADDRESS, FIRST_ADDRESS + 0x1000, FIRST_ADDRESS + 0x8000
    machine = Machine(rdi=x, rsi=w, rdx=sums)
    machine.bytes_at(x, ROWS * DEPTH)[:] = inputs.astype(np.uint8).reshape(-1)
    machine.bytes_at(w, packed.size)[:] = packed.reshape(-1).view(np.uint8)
    machine.run(assembly)
    found = machine.bytes_at(sums, ROWS * COLS * 4).view(np.int32).reshape(ROWS, COLS)
    np.testing.assert_array_equal(found, inputs @ weights)
