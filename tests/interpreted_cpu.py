"""The CPU module on an interpreted CPU: its machine code as compiled, on any x86-64 Linux machine.

One process interprets one model of CPU and loads the module into it; the module's functions then run there. Such a
process has one thread, and ENVIRONMENT from its start.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from emulated_modules import BUILD

LIBRARY = BUILD / "libassay_cpu_interpreter.so"
TIMEOUT_S = 600
MAX_OPCODES = 8192
ENVIRONMENT = {
    # A function that is bound at its first call saves the vector registers to a place sized for the machine below.
    "LD_BIND_NOW": "1",
    # libc chooses its memcpy, memset, ... by the machine below too; Haswell and Arrow Lake cannot run AVX-512 ones.
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW",
}


def missing() -> str | None:
    """Why nothing can be interpreted here, or None."""
    if not LIBRARY.exists():
        return "the interpreter's library was not built (make emulation, on x86-64 Linux)"
    if importlib.util.find_spec("bochscpu") is None:
        return "the package bochscpu-python is not installed"
    return None


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python process that can interpret, with this one's import path."""
    environment = os.environ | ENVIRONMENT | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


class Interpreter:
    """An interpreted CPU. cpu_model: haswell, arrow_lake, skylake_x, icelake or sapphire_rapids."""

    def __init__(self, cpu_model: str) -> None:
        for name, value in ENVIRONMENT.items():
            if os.environ.get(name) != value:
                raise RuntimeError(f"a process that interprets must have {name}={value} from its start")
        package = importlib.util.find_spec("bochscpu")
        assert package is not None and package.origin is not None
        (bochs,) = Path(package.origin).parent.glob("_bochscpu*.so")
        # PyDLL keeps the GIL: the interpreted code is this thread's, and holds it.
        self._library = ctypes.PyDLL(str(LIBRARY), mode=ctypes.RTLD_GLOBAL)
        self._library.assay_interpreter_start.restype = ctypes.c_char_p
        fault: bytes | None = self._library.assay_interpreter_start(str(bochs).encode(), cpu_model.encode())
        if fault is not None:
            raise RuntimeError(fault.decode())

    def call_address(self, address: int | None, *args: int, restype: Any = ctypes.c_uint64) -> Any:
        """The machine code at `address`, with up to four integers or pointers."""
        function = self._library.assay_interpreter_call
        function.argtypes = [ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64), ctypes.c_int]
        function.restype = restype
        return function(address, (ctypes.c_uint64 * 4)(*args), len(args))

    def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """function(*args, **kwargs), interpreted, to what it returns or raises."""
        address = ctypes.cast(ctypes.pythonapi.PyObject_Call, ctypes.c_void_p).value
        objects = id(function), id(args), id(kwargs) if kwargs else 0
        return self.call_address(address, *objects, restype=ctypes.py_object)

    def load(self, path: str) -> InterpretedModule:
        """The extension module in that file, loaded by the interpreted CPU: it finds that CPU's instructions."""
        spec = importlib.util.spec_from_file_location("_cpu", path)
        assert spec is not None and spec.loader is not None
        module = self.call(importlib.util.module_from_spec, spec)
        self.call(spec.loader.exec_module, module)
        module.set_num_threads(1)
        return InterpretedModule(self, module)

    def tile_counts(self) -> dict[str, int]:
        """AMX instructions executed so far, by kind."""
        counts = (ctypes.c_uint64 * 3)()
        self._library.assay_interpreter_tile_counts(counts)
        return dict(zip(("products", "moves", "others"), counts, strict=True))

    def count(self) -> None:
        """Counts instructions from now on, from zero."""
        self._library.assay_interpreter_count()

    def counts(self) -> dict[str, int]:
        """How often each instruction was executed since `count`, by Bochs' name for it."""
        name_of, count_of = self._library.assay_interpreter_opcode_name, self._library.assay_interpreter_num_executed
        name_of.restype, count_of.restype = ctypes.c_char_p, ctypes.c_uint64
        names = {opcode: name for opcode in range(MAX_OPCODES) if (name := name_of(opcode)) is not None}
        return {name.decode(): count_of(opcode) for opcode, name in names.items()}


class InterpretedModule:
    """A module whose functions, or a class whose constructors, run on the interpreted CPU."""

    def __init__(self, interpreter: Interpreter, own: Any) -> None:
        self._interpreter, self._own = interpreter, own

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._own, name)
        return InterpretedModule(self._interpreter, value) if callable(value) else value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._interpreter.call(self._own, *args, **kwargs)


def install(cpu_model: str) -> Interpreter:
    """Puts the interpreted module where `assay` will look for the installed one; call it before anything loads that."""
    import torch

    import assay

    torch.set_num_threads(1)
    spec = importlib.util.find_spec("assay._cpu")
    assert spec is not None and spec.origin is not None
    interpreter = Interpreter(cpu_model)
    module: Any = interpreter.load(spec.origin)
    sys.modules["assay._cpu"] = module
    assay._cpu = module  # type: ignore[attr-defined]
    return interpreter
