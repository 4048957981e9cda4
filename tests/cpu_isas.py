"""Which build of the CPU kernels a test of an instruction set runs on: the installed one, or the emulation."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest

import emulated_modules
from assay import ops


@functools.cache
def emulation() -> ModuleType | None:
    """The build in which AVX2 code stands for AVX-512 instructions (make emulation), or None where there is none."""
    return emulated_modules.load("_cpu")


@functools.cache
def testable() -> list[str]:
    """Every instruction set a test can run here, the emulated ones last."""
    own: list[str] = ops.cpu_module().testable_isas()
    emulated = emulation()
    return own + [isa for isa in (emulated.testable_isas() if emulated else []) if isa not in own]


def testable_on_models() -> list[str]:
    """The same for tests of whole models: of two emulated paths that share their float32 kernels, the wider one."""
    return [isa for isa in testable() if not (isa == "avx512" and kind(isa) == "emulated")]


OWN = ops.cpu_module()


def kind(isa: str) -> str:
    """What decides how slow a path is here: its name, or "emulated" for the emulation's stand-ins of AVX-512."""
    return isa if isa in OWN.testable_isas() or isa == "amx_emulated" else "emulated"


def module_of(isa: str) -> ModuleType:
    """The build that runs `isa`: the installed one if it can."""
    emulated = emulation()
    if isa in OWN.testable_isas() or emulated is None:
        return OWN
    return emulated


@contextmanager
def active(module: ModuleType, isa: str) -> Iterator[None]:
    """`isa` in use, on that build, for everything that goes through `assay.ops`; what was before comes back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "cpu_module", lambda: module)
        before = module.active_isa()
        module.set_active_isa(isa)
        try:
            yield
        finally:
            module.set_active_isa(before)
