"""Runs AVX-512 assembly as a compiler prints it, on any machine: registers and memory are arrays of bytes."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

Array = np.ndarray
FIRST_ADDRESS = 0x1000
MEMORY_BYTES = 1 << 16


def _int16(values: Array) -> Array:
    return np.clip(values, -(2**15), 2**15 - 1).astype(np.int16)


def _pairs(left: Array, right: Array) -> Array:
    """Sums of two neighbouring products each."""
    products = left.astype(np.int64) * right.astype(np.int64)
    return products.reshape(-1, 2).sum(axis=1)


def _vpdpbusd(sums: Array, inputs: Array, weights: Array) -> Array:
    products = inputs.view(np.uint8).astype(np.int64) * weights.view(np.int8).astype(np.int64)
    return (sums.view(np.int32) + products.reshape(-1, 4).sum(axis=1)).astype(np.int32)


# Results of (destination before, first source, second source), in Intel's order of operands.
VECTOR: dict[str, Callable[[Array, Array, Array], Array]] = {
    "vpxord": lambda _, a, b: a ^ b,
    "vpaddw": lambda _, a, b: a.view(np.int16) + b.view(np.int16),
    "vpaddd": lambda _, a, b: a.view(np.int32) + b.view(np.int32),
    "vpmaddubsw": lambda _, a, b: _int16(_pairs(a.view(np.uint8), b.view(np.int8))),
    "vpmaddwd": lambda _, a, b: _pairs(a.view(np.int16), b.view(np.int16)).astype(np.int32),
    "vpdpbusd": _vpdpbusd,
}


class Machine:
    """Executes statements in AT&T syntax. An instruction or operand it does not know is a ValueError."""

    def __init__(self, **general: int) -> None:
        self.memory = np.zeros(MEMORY_BYTES, np.uint8)
        self.vectors = {f"zmm{i}": np.full(64, 0xA5, np.uint8) for i in range(32)}
        self.general = dict(general)
        self.is_zero = False

    def bytes_at(self, address: int, size: int) -> Array:
        """A view of memory."""
        start = address - FIRST_ADDRESS
        if start < 0 or start + size > MEMORY_BYTES:
            raise ValueError(f"{size} bytes at {address:#x} lie outside the memory")
        return self.memory[start : start + size]

    def run(self, text: str) -> None:
        statements = [line.split("#")[0].strip() for line in text.splitlines()]
        statements = [line for line in statements if line]
        labels = {line[:-1]: at for at, line in enumerate(statements) if line.endswith(":")}
        at = 0
        while at < len(statements):
            name, _, rest = statements[at].partition("\t" if "\t" in statements[at] else " ")
            operands = [operand.strip() for operand in re.split(r",\s*(?![^(]*\))", rest)]
            at = at + 1
            if name.endswith(":"):
                continue
            if name == "jnz":
                at = at if self.is_zero else labels[operands[0].removesuffix("b")]
                continue
            self.step(name, operands)

    def step(self, name: str, operands: list[str]) -> None:
        target = operands[-1].removeprefix("%")
        if name == "mov":
            self.general[self._wide(target)] = int(operands[0].removeprefix("$"), 0)
        elif name in ("add", "dec"):
            by = int(operands[0].removeprefix("$"), 0) if name == "add" else -1
            self.general[self._wide(target)] += by
            self.is_zero = self.general[self._wide(target)] == 0
        elif name == "vmovdqa64":
            value = self._vector(operands[0]).copy()
            if target in self.vectors:
                self.vectors[target] = value
            else:
                self._place(operands[1], 64)[:] = value
        elif name == "vpbroadcastd":
            self.vectors[target] = np.tile(self.bytes_at(self._address(operands[0]), 4), 16)
        elif name == "vpabsw":
            self.vectors[target] = np.abs(self._vector(operands[0]).view(np.int16)).view(np.uint8)
        elif name == "vpternlogd" and operands[0] == "$0xFF":
            self.vectors[target] = np.full(64, 0xFF, np.uint8)
        elif name in VECTOR:
            second, first = (self._vector(operand) for operand in operands[:2])
            result = VECTOR[name](self.vectors[target], first, second)
            self.vectors[target] = np.ascontiguousarray(result).view(np.uint8)
        else:
            raise ValueError(f"unknown instruction: {name} {', '.join(operands)}")

    def _wide(self, register: str) -> str:
        return "r" + register[1:] if register.startswith("e") else register

    def _address(self, operand: str) -> int:
        found = re.fullmatch(r"([\d+* ]*)\(%(\w+)\)", operand)
        if found is None:
            raise ValueError(f"unknown address: {operand}")
        offset = sum(
            int(np.prod([int(factor) for factor in term.split("*")])) for term in found[1].split("+") if term.strip()
        )
        return self.general[found[2]] + offset

    def _place(self, operand: str, size: int) -> Array:
        """What an aligned move reads or writes."""
        address = self._address(operand)
        if address % size:
            raise ValueError(f"{operand}: {address:#x} is no multiple of {size}")
        return self.bytes_at(address, size)

    def _vector(self, operand: str) -> Array:
        name = operand.removeprefix("%")
        return self.vectors[name] if name in self.vectors else self._place(operand, 64)
