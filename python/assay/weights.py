"""Checkpoint tensors by name, with a record of which were used: nothing is left over or made up without a word."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from assay.checkpoint_files import dtype_name, open_checkpoint
from assay.device import CPU
from assay.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor

    from assay.checkpoint_files import CheckpointFile
    from assay.device import Device

_LEGACY_SUFFIXES = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
_SHOWN = 12
"""Names an error message spells out."""
_MOST_MAPPED = 8 << 20
"""Bytes of tensors taken before their pages are given back: what loading adds to the memory of the model."""


Part = TypeVar("Part")
Parts: TypeAlias = "dict[tuple[str, ...], Any]"
"""What a model made of its tensors, by their names."""


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
    """Tensors of one checkpoint, mapped: what was taken earlier goes from memory while the rest is taken.

    A tensor goes from the file's pages to `device` in one copy; the host keeps none. has_numbers False: tensors have
    shape and dtype only (see `open_checkpoint`).
    """

    def __init__(
        self, paths: Sequence[Path], device: Device = CPU, *, has_numbers: bool = True, parts: Parts | None = None
    ) -> None:
        """parts: where to keep what `part` makes, for adapters of the model that leave it alone."""
        self.device = device
        self._parts = parts
        self.has_numbers = has_numbers
        self.source = ", ".join(path.name for path in paths)
        self._files = [open_checkpoint(path, has_numbers=has_numbers) for path in paths]
        self._tensors: dict[str, tuple[CheckpointFile, str]] = {}
        self._used: set[str] = set()
        self._mapped_bytes = 0
        for handle in self._files:
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
        return self._dtype_in(*self._tensors[name])

    @staticmethod
    def _dtype_in(file: CheckpointFile, stored: str) -> str:
        return dtype_name(file.get_slice(stored).get_dtype())

    def num_numbers(self, name: str) -> int:
        """How many numbers a tensor has, without taking it."""
        return math.prod(self.shape(name))

    def total_numbers(self, names: Iterable[str] | None = None) -> int:
        """Numbers in those tensors together, or in all."""
        return sum(self.num_numbers(name) for name in (self._tensors if names is None else names))

    def largest(self) -> str:
        """The name of the tensor with the most numbers."""
        return max(self.names(), key=self.num_numbers)

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
        if self._mapped_bytes > _MOST_MAPPED:
            self._drop_pages()
        handle, stored = self._tensors[name]
        tensor = handle.get_tensor(stored)
        self._mapped_bytes += tensor.nbytes
        if not tensor.dtype.is_floating_point or tensor.dtype.itemsize not in (2, 4, 8):
            raise WeightsError(f"{self.source}: {name} has dtype {tensor.dtype}; only float checkpoints are supported")
        if shape is not None and tuple(tensor.shape) != shape:
            raise WeightsError(f"{self.source}: {name} has shape {tuple(tensor.shape)}, config.json asks for {shape}")
        self._used.add(name)
        return self._placed(tensor)

    def take_as(self, name: str, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """`take` of a matrix in another dtype, converted in pieces so that the stored one is never whole in memory.

        Where it is stored in that dtype it stays in the mapped file.
        """
        import torch

        stored = self.take(name, shape)
        if stored.dtype == dtype:
            return stored.contiguous()
        converted = torch.empty(shape, dtype=dtype, device=stored.device)
        step = max(1, _MOST_MAPPED * shape[0] // stored.nbytes)
        for first in range(0, shape[0], step):
            converted[first : first + step] = stored[first : first + step]
            self._drop_pages()
        return converted

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
        return self._placed(taken)

    def part(self, tensors: Sequence[str], make: Callable[[], Part]) -> Part:
        """make(), which takes these tensors and no others."""
        made = make()
        if self._parts is not None:
            self._parts[tuple(tensors)] = made
        return made

    def _placed(self, tensor: Tensor) -> Tensor:
        """On the device; a copy there, even where its memory is the CPU's: what lies in a file is not aligned."""
        return tensor.to(self.device.torch_device, copy=True) if self.device.is_cuda else tensor

    def finish(self, ignore: Iterable[str] = ()) -> None:
        """Raise WeightsError naming the tensors nobody took, except those that match a pattern of `ignore`."""
        self._drop_pages()
        patterns = [re.compile(pattern) for pattern in ignore]
        left = [
            name
            for name in self._tensors
            if name not in self._used and not any(pattern.fullmatch(name) for pattern in patterns)
        ]
        if left:
            raise WeightsError(f"{self.source}: tensors the architecture has no use for: {_listed(left)}")

    def _drop_pages(self) -> None:
        for file in self._files:
            file.drop_pages()
        self._mapped_bytes = 0
