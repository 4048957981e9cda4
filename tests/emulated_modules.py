"""Compiled modules that `make emulation` builds for the tests and nothing installs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

BUILD = Path(__file__).parents[1] / "build" / "emulation"


def load(name: str) -> ModuleType | None:
    """The module of that name, or None where it was not built."""
    for path in sorted(BUILD.glob(f"{name}.*.so")):
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    return None
