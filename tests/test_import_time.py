from __future__ import annotations

import statistics
import subprocess
import sys

LIMIT_S = 0.3
HEAVY = ("torch", "transformers", "numpy", "fastapi", "typer")

PROGRAM = """
import sys, time
start = time.perf_counter()
import assay
print(time.perf_counter() - start)
assay.PoolerConfig, assay.PoolingParams, assay.ClassificationOutput, assay.ValidationError, assay.TextPrompt
print(*[name for name in {heavy!r} if name in sys.modules])
"""


def measure(program: str) -> tuple[float, str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    seconds, _, modules = done.stdout.partition("\n")
    return float(seconds), modules.strip()


def test_import_is_fast_and_light() -> None:
    runs = [measure(PROGRAM.format(heavy=HEAVY)) for _ in range(5)]
    assert {modules for _, modules in runs} == {""}
    assert statistics.median(seconds for seconds, _ in runs) < LIMIT_S


def test_the_class_itself_loads_without_torch() -> None:
    program = PROGRAM.format(heavy=HEAVY[:2]).replace("assay.PoolerConfig,", "assay.LLM, assay.PoolerConfig,")
    assert measure(program)[1] == ""
