"""Machine code that this machine cannot run, on an interpreted CPU: what is found there, and every kernel's bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import cpu_isas
import interpreted_cpu
import kernel_cases

CPU_MODELS = {
    "haswell": ["avx2"],
    "arrow_lake": ["avx2_vnni"],
    "skylake_x": ["avx512"],
    "icelake": ["avx512_vnni"],
    "sapphire_rapids": ["avx512_bf16", "amx"],
}
"""What each runs here: the widest that it has; tiles differ from what else the last one has."""

FOUND = {
    "haswell": ["scalar", "avx2"],
    "arrow_lake": ["scalar", "avx2", "avx2_vnni"],
    "skylake_x": ["scalar", "avx2", "avx512"],
    "icelake": ["scalar", "avx2", "avx512", "avx512_vnni"],
    "sapphire_rapids": ["scalar", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx"],
}

STAND_INS = {"amx": "amx_emulated", "avx2_vnni": "avx2", "avx512_vnni": "avx512"}
"""What has the same bits, on this machine or in the emulation, where it is not the same name."""

PRODUCTS = {
    ("avx2_vnni", "int8"): "avx512_bf16",
    ("avx512_vnni", "int8"): "avx512_bf16",
    ("avx512_vnni", "bfloat16"): "avx2",
}
"""The same for products whose arithmetic is not that of the stand-in; a layer consists of both."""


def stand_in(isa: str, case: str) -> str | None:
    """The instruction set that has the bits of that one here; None where none has."""
    for arithmetic in kernel_cases.ARITHMETICS:
        if arithmetic in case and (isa, arithmetic) in PRODUCTS:
            if case.startswith(("linear", "largest", "gated_linear")):
                return PRODUCTS[isa, arithmetic]
            if case.startswith(("layer-", "layer_rows-")):
                return None
    return STAND_INS.get(isa, isa)


pytestmark = pytest.mark.skipif(interpreted_cpu.missing() is not None, reason=str(interpreted_cpu.missing()))


class Run:
    """All cases on one model of CPU, in a process of its own."""

    def __init__(self, cpu_model: str, folder: Path) -> None:
        self.cpu_model, file = cpu_model, folder / "results.pt"
        process = interpreted_cpu.run_python(kernel_cases.__file__, cpu_model, str(file), *CPU_MODELS[cpu_model])
        assert process.returncode == 0, process.stderr
        self.found: dict[str, Any] = torch.load(file)


@pytest.fixture(scope="module", params=CPU_MODELS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(request.param, tmp_path_factory.mktemp("interpreted"))


def test_module_finds_what_the_cpu_has(run: Run) -> None:
    assert run.found["isas"] == FOUND[run.cpu_model]


def test_kernels_have_the_bits_of_this_machine_or_the_emulation(run: Run) -> None:
    for isa, results in run.found["results"].items():
        differing = []
        for name, case in kernel_cases.CASES.items():
            stands_in = stand_in(isa, name)
            if stands_in is None:
                continue
            with cpu_isas.active(cpu_isas.module_of(stands_in), stands_in):
                if not torch.equal(case(), results[name]):
                    differing.append(name)
        assert differing == [], isa


@pytest.mark.parametrize("case", [name for name in kernel_cases.CASES if name.startswith("layer-")])
def test_layers_are_close_to_those_of_avx2(run: Run, case: str) -> None:
    tolerance = {"float32": 1e-3, "bfloat16": 0.03, "int8": 0.06}[case.rsplit("-", 1)[1]]
    with cpu_isas.active(cpu_isas.module_of("avx2"), "avx2"):
        expected = kernel_cases.CASES[case]()
    for results in run.found["results"].values():
        assert (results[case] - expected).norm() < tolerance * expected.norm()


def test_tiles_are_used_where_they_are(run: Run) -> None:
    count = run.found["tile_instructions"]
    assert count > 10_000 if run.cpu_model == "sapphire_rapids" else count == 0


PROGRAM = """
import ctypes, mmap, sys
import interpreted_cpu
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex(sys.argv[2]) + b"\\xc3")
address = ctypes.addressof(ctypes.c_char.from_buffer(code))
print(interpreted_cpu.Interpreter(sys.argv[1]).call_address(address, 5))
"""
LEA_RAX_RDI_3 = "488d4703"
VADDPS_ZMM = "62f17c4858c0"
VPDPBUSD_ZMM = "62f27d4850c0"
TDPBF16PS = "c4e2725cc2"  # tmm0, tmm2, tmm1


@pytest.mark.parametrize(
    ("cpu_model", "code", "said"),
    [
        ("haswell", LEA_RAX_RDI_3, None),
        ("haswell", VADDPS_ZMM, "exception 6"),
        ("skylake_x", VADDPS_ZMM + LEA_RAX_RDI_3, None),
        ("skylake_x", VPDPBUSD_ZMM, "exception 6"),
        ("icelake", VPDPBUSD_ZMM + LEA_RAX_RDI_3, None),
        ("icelake", TDPBF16PS, "exception 6"),
        ("sapphire_rapids", TDPBF16PS, "a tile instruction before LDTILECFG"),
        ("pentium", LEA_RAX_RDI_3, "cpu_model is one of haswell"),
    ],
)
def test_instructions_that_a_cpu_lacks_end_the_process(cpu_model: str, code: str, said: str | None) -> None:
    process = interpreted_cpu.run_python("-c", PROGRAM, cpu_model, code)
    if said is None:
        assert (process.returncode, process.stdout) == (0, "8\n"), process.stderr
    else:
        assert process.returncode == 70
        assert said in process.stderr
