"""Checkpoint tensors by name, with a record of which were used: nothing is left over or made up without a word."""

from __future__ import annotations

import math
import re
import zipfile
from typing import TYPE_CHECKING, Any

from assay.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from torch import Tensor

_LEGACY_SUFFIXES = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
"""safetensors' names of the dtypes."""
_SHOWN = 12
"""Names an error message spells out."""


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = len(ordered) - _SHOWN
    return ", ".join(ordered[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _canonical(name: str) -> str:
    """The name used today for a LayerNorm tensor of an old TensorFlow-born checkpoint."""
    for old, new in _LEGACY_SUFFIXES:
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


class WeightMap:
    """Tensors of one checkpoint; safetensors files stay memory-mapped until a tensor is taken."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.source = ", ".join(path.name for path in paths)
        self._tensors: dict[str, tuple[Any, str]] = {}
        self._used: set[str] = set()
        for path in paths:
            handle = _open(path)
            for stored in handle.keys():
                name = _canonical(stored)
                if name in self._tensors:
                    raise WeightsError(f"{self.source}: {name} occurs twice")
                self._tensors[name] = (handle, stored)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __len__(self) -> int:
        return len(self._tensors)

    def names(self) -> list[str]:
        """Every tensor name."""
        return sorted(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without taking it."""
        self.require([name])
        handle, stored = self._tensors[name]
        return tuple(handle.get_slice(stored).get_shape())

    def dtype(self, name: str) -> str:
        """The dtype of a tensor as stored ("float32", "bfloat16", ...), without taking it."""
        self.require([name])
        handle, stored = self._tensors[name]
        code = str(handle.get_slice(stored).get_dtype())
        return _DTYPES.get(code, code)

    def largest(self) -> str:
        """The name of the tensor with the most numbers."""
        return max(self.names(), key=lambda name: math.prod(self.shape(name)))

    def prefix(self, candidates: Sequence[str], probe: str) -> str:
        """The first of `candidates` (or no prefix) under which the tensor `probe` lies; raises WeightsError."""
        for candidate in (*candidates, ""):
            if candidate + probe in self._tensors:
                return candidate
        tried = ", ".join(candidate + probe for candidate in (*candidates, ""))
        raise WeightsError(f"{self.source}: none of {tried} is in the checkpoint, which has {_listed(self._tensors)}")

    def require(self, names: Iterable[str]) -> None:
        """Raise one WeightsError that names every tensor of `names` the checkpoint lacks."""
        missing = [name for name in names if name not in self._tensors]
        if missing:
            raise WeightsError(f"{self.source}: missing tensors {_listed(missing)}")

    def take(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """A floating-point tensor, marked as used; raises WeightsError where it is missing or has another shape."""
        self.require([name])
        handle, stored = self._tensors[name]
        tensor: Tensor = handle.get_tensor(stored)
        if not tensor.dtype.is_floating_point or tensor.dtype.itemsize not in (2, 4, 8):
            raise WeightsError(f"{self.source}: {name} has dtype {tensor.dtype}; only float checkpoints are supported")
        if shape is not None and tuple(tensor.shape) != shape:
            raise WeightsError(f"{self.source}: {name} has shape {tuple(tensor.shape)}, config.json asks for {shape}")
        self._used.add(name)
        return tensor

    def take_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """Some rows of a tensor, in the order asked for and as stored; nothing else of it is read. Marks it as used."""
        import torch

        self.require([name])
        handle, stored = self._tensors[name]
        part = handle.get_slice(stored)
        num_rows = part.get_shape()[0]
        wrong = [row for row in rows if not 0 <= row < num_rows]
        if wrong:
            raise WeightsError(f"{self.source}: {name} has {num_rows} rows, none is number {wrong[0]}")
        taken = torch.cat([part[row : row + 1] for row in rows])
        if not taken.dtype.is_floating_point or taken.dtype.itemsize not in (2, 4, 8):
            raise WeightsError(f"{self.source}: {name} has dtype {taken.dtype}; only float checkpoints are supported")
        self._used.add(name)
        return taken

    def finish(self, ignore: Iterable[str] = ()) -> None:
        """Raise WeightsError naming the tensors nobody took, except those that match a pattern of `ignore`."""
        patterns = [re.compile(pattern) for pattern in ignore]
        left = [
            name
            for name in self._tensors
            if name not in self._used and not any(pattern.fullmatch(name) for pattern in patterns)
        ]
        if left:
            raise WeightsError(f"{self.source}: tensors the architecture has no use for: {_listed(left)}")


class _BinSlice:
    """What can be asked about a stored tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        return list(self._tensor.shape)

    def get_dtype(self) -> str:
        return str(self._tensor.dtype).removeprefix("torch.")

    def __getitem__(self, rows: slice) -> Tensor:
        return self._tensor[rows]


class _BinHandle:
    """A torch checkpoint behind the interface of a safetensors file."""

    def __init__(self, path: Path) -> None:
        import torch

        try:
            is_mappable = zipfile.is_zipfile(path)  # files older than torch 1.6 are not
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mappable)
        except Exception as err:  # torch raises RuntimeError, UnpicklingError and others for files it will not read
            raise WeightsError(f"{path} cannot be read as plain tensors (weights_only): {err}") from err
        if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise WeightsError(f"{path} must hold a dict of tensors")
        self._state = state

    def keys(self) -> list[str]:
        return list(self._state)

    def get_slice(self, name: str) -> _BinSlice:
        return _BinSlice(self._state[name])

    def get_tensor(self, name: str) -> Tensor:
        tensor: Tensor = self._state[name]
        return tensor.contiguous()


def _open(path: Path) -> Any:
    if path.suffix != ".safetensors":
        return _BinHandle(path)
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as err:
        raise WeightsError(f"{path} is not a readable safetensors file: {err}") from err
