"""The memory of a process: of this one, and of one that has everything a model needs around it but the model."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from assay.errors import AssayError, ConfigError

if TYPE_CHECKING:
    from assay.files import ModelFiles

_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from assay.memory.process import report_base; report_base()"
)
_WARM_TEXT = "The quick brown fox jumps over the lazy dog. "
_WARM_WIDTH = 64


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Resident bytes now, and the most there ever were."""

    resident_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Base:
    """A process with Python, torch, this package and a tokenizer.

    tokenizer_error: why the tokenizer is not in it, None where it is.
    """

    resident_bytes: int
    peak_bytes: int
    tokenizer_error: str | None = None


def own_memory() -> ProcessMemory:
    """The memory of this process, pages of libraries and mapped files included, as far as they are resident."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines())
        resident, peak = (int(lines[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
        return ProcessMemory(resident, peak)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return ProcessMemory(peak, peak)


def measure_base(files: ModelFiles | None, num_threads: int) -> Base:
    """Start a process that loads what a model needs around it; raises ConfigError where it fails.

    The tokenizer of `files` is in it, none where that is None.
    """
    if files is None:
        return _measured(num_threads, [])
    folder = files.tokenizer_folder or files.folder
    base = _measured(num_threads, [str(folder)])
    if base.tokenizer_error is None:
        return base
    # What was imported on the way to the failure is not there in a run without a tokenizer.
    return replace(_measured(num_threads, []), tokenizer_error=base.tokenizer_error)


def _measured(num_threads: int, tokenizer_folder: list[str]) -> Base:
    package_root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", _PROGRAM, package_root, str(num_threads), *tokenizer_folder]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise ConfigError(f"a process without the model could not be measured: {finished.stderr.strip()[-400:]}")
    return Base(**json.loads(finished.stdout.splitlines()[-1]))


def report_base() -> None:
    """What the measured process does; its arguments are the number of threads and a folder with a tokenizer, or none.

    Everything that a model runs in is loaded and used once.
    """
    import safetensors  # noqa: F401
    import torch

    import assay.llm.offline  # noqa: F401
    from assay import ops

    errors = [_load_tokenizer(Path(folder)) for folder in sys.argv[2:]]
    ops.set_num_threads(int(sys.argv[1]))
    square = torch.zeros(_WARM_WIDTH, _WARM_WIDTH)
    ops.linear(square, ops.pack_weight(square, None, "float32"))
    print(json.dumps({**asdict(own_memory()), "tokenizer_error": next(iter(errors), None)}))


def _load_tokenizer(folder: Path) -> str | None:
    """Load a folder's tokenizer and use it; what is wrong with it where that fails."""
    from assay.files import ModelFiles
    from assay.tokenizer import Tokenizer

    try:
        tokenizer = Tokenizer.from_files(ModelFiles(str(folder), folder))
    except (AssayError, OSError, ValueError) as err:
        return str(err)
    tokenizer.backend.encode_batch([_WARM_TEXT] * 8)
    return None
