"""Reads what ptxas says about every kernel (-Xptxas=-v) and fails on stack frames, spills and serialised products.

    python .ci/check_cuda_resources.py build/cuda-build.log 80 90a

A kernel whose registers spill, or whose arrays went to local memory, is slow without being wrong: only this shows it.
So is one whose asynchronous products (wgmma) ptxas makes wait for each other, which it tells as mere information.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

ALLOWED: dict[str, str] = {}
"""Kernels that may have a stack frame, each with the reason."""

ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\w+)'")
PROPERTIES = re.compile(r"Function properties for (\w+)")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
SERIALISED = re.compile(r"\(C75\d\d\)")
REGISTERS = re.compile(r"Used (\d+) registers")


@dataclass(frozen=True)
class Frame:
    """One function for one architecture."""

    function: str
    arch: str
    stack: int
    spill_stores: int
    spill_loads: int

    @property
    def is_clean(self) -> bool:
        return self.stack == self.spill_stores == self.spill_loads == 0


def kernel_name(mangled: str) -> str:
    """The last identifier of a mangled name that ends in _kernel; else the name itself."""
    found = mangled
    for at in range(len(mangled)):
        # An identifier is its length, then itself; digits before the length may belong to what precedes it.
        if match := re.match(r"[1-9]\d?", mangled[at:]):
            start = at + match.end()
            name = mangled[start : start + int(match.group())]
            found = name if name.endswith("_kernel") and name[0].isalpha() else found
    return found


def read(log: str) -> tuple[list[Frame], int]:
    """The frames in ptxas's report, and the most registers a thread of any kernel has."""
    frames, arch, function, registers = [], "", "", 0
    for line in log.splitlines():
        if match := ENTRY.search(line):
            arch = match.group(2)
        elif match := PROPERTIES.search(line):
            function = match.group(1)
        elif match := FRAME.search(line):
            frames.append(Frame(function, arch, *(int(number) for number in match.groups())))
        elif match := REGISTERS.search(line):
            registers = max(registers, int(match.group(1)))
    return frames, registers


def main(path: str, *archs: str) -> int:
    """Prints what is wrong, then one line in any case; the exit status."""
    log = Path(path).read_text(encoding="utf-8")
    frames, registers = read(log)
    serialised = [line for line in log.splitlines() if SERIALISED.search(line)]
    print(*serialised, sep="\n", end="\n" if serialised else "")
    missing = set(archs) - {frame.arch for frame in frames}
    if not frames or missing:
        print(f"no report for sm {' '.join(sorted(missing))}: compile with -Xptxas=-v, from scratch")
        return 1
    bad = [frame for frame in frames if not frame.is_clean and kernel_name(frame.function) not in ALLOWED]
    for frame in bad:
        print(
            f"{kernel_name(frame.function)} sm_{frame.arch}: {frame.stack} bytes of stack, "
            f"{frame.spill_stores} spilled, {frame.spill_loads} read back ({frame.function})"
        )
    unused = set(ALLOWED) - {kernel_name(frame.function) for frame in frames if not frame.is_clean}
    if unused:
        print(f"allowed a stack frame, but has none: {' '.join(sorted(unused))}")
    allowed = f", {len(ALLOWED)} kernels allowed a stack frame" if ALLOWED else ", no stack frames and no spills"
    print(f"{len(frames)} functions, at most {registers} registers{allowed if not bad else f', {len(bad)} not clean'}")
    return 1 if bad or unused or serialised else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
