"""The files of a checkpoint: tensors by name, mapped rather than read, in pages that can be given back."""

from __future__ import annotations

import json
import mmap
import zipfile
from typing import TYPE_CHECKING, Any, Protocol

from assay.errors import WeightsError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
"""safetensors' names of the dtypes that are supported."""


class StoredTensor(Protocol):
    """What can be asked about a tensor without taking it."""

    def get_shape(self) -> list[int]: ...

    def get_dtype(self) -> str:
        """A key of DTYPES, or another name."""
        ...

    def __getitem__(self, rows: slice) -> Tensor: ...


class CheckpointFile(Protocol):
    """Tensors of one file."""

    def keys(self) -> list[str]: ...

    def get_slice(self, name: str) -> StoredTensor: ...

    def get_tensor(self, name: str) -> Tensor: ...

    def drop_pages(self) -> None:
        """Give back the memory of everything read so far; tensors taken before stay valid."""
        ...


def open_checkpoint(path: Path, *, has_numbers: bool = True) -> CheckpointFile:
    """A safetensors file or a torch checkpoint, raises WeightsError where it is neither.

    has_numbers False: tensors have shape and dtype only. Matrices are on the meta device, vectors are zero.
    """
    file = _SafetensorsFile(path) if path.suffix == ".safetensors" else _BinFile(path)
    return file if has_numbers else _Shapes(file)


class _SafetensorsFile:
    """Checked by the safetensors library, and mapped here, because its own mapping cannot be told to let pages go."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            self._checked: Any = safe_open(path, framework="pt", device="cpu")
            with path.open("rb") as file:
                header_size = int.from_bytes(file.read(8), "little")
                self._entries = json.loads(file.read(header_size))
                # A private mapping: torch wants memory it may write to, and the file must not change if someone does.
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (SafetensorError, OSError) as err:
            raise WeightsError(f"{path} is not a readable safetensors file: {err}") from err
        self._data_start = 8 + header_size

    def keys(self) -> list[str]:
        return list(self._checked.keys())

    def get_slice(self, name: str) -> StoredTensor:
        stored: StoredTensor = self._checked.get_slice(name)
        return stored

    def get_tensor(self, name: str) -> Tensor:
        """A view of the mapping, which lives as long as the tensor does."""
        import torch

        entry = self._entries[name]
        first, last = entry["data_offsets"]
        if entry["dtype"] not in DTYPES or first == last:
            whole: Tensor = self._checked.get_tensor(name)
            return whole
        dtype = getattr(torch, DTYPES[entry["dtype"]])
        count = (last - first) // dtype.itemsize
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=self._data_start + first).view(
            entry["shape"]
        )

    def drop_pages(self) -> None:
        # Nobody writes to the tensors, so every page comes back from the file when it is read again.
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


class _BinSlice:
    """What can be asked about a tensor of a torch checkpoint."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        return list(self._tensor.shape)

    def get_dtype(self) -> str:
        return str(self._tensor.dtype).removeprefix("torch.")

    def __getitem__(self, rows: slice) -> Tensor:
        return self._tensor[rows]


class _BinFile:
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

    def get_slice(self, name: str) -> StoredTensor:
        return _BinSlice(self._state[name])

    def get_tensor(self, name: str) -> Tensor:
        """A copy: a tensor of the state would keep the memory of all of them."""
        import torch

        tensor: Tensor = self._state[name]
        return tensor.clone(memory_format=torch.contiguous_format)

    def drop_pages(self) -> None:
        """Nothing: the memory is torch's, which lets go of it with the last tensor of the state."""


class _ShapeSlice:
    """A stored tensor whose rows have no numbers."""

    def __init__(self, stored: StoredTensor) -> None:
        self._stored = stored

    def get_shape(self) -> list[int]:
        return self._stored.get_shape()

    def get_dtype(self) -> str:
        return self._stored.get_dtype()

    def __getitem__(self, rows: slice) -> Tensor:
        shape = self.get_shape()
        return self.without_numbers([len(range(*rows.indices(shape[0]))), *shape[1:]])

    def without_numbers(self, shape: list[int]) -> Tensor:
        import torch

        code = self.get_dtype()
        dtype = getattr(torch, DTYPES.get(code, code))
        return torch.zeros(shape, dtype=dtype, device="cpu" if len(shape) == 1 else "meta")


class _Shapes:
    """A file of which the header alone is of interest."""

    def __init__(self, file: CheckpointFile) -> None:
        self._file = file

    def keys(self) -> list[str]:
        return self._file.keys()

    def get_slice(self, name: str) -> _ShapeSlice:
        return _ShapeSlice(self._file.get_slice(name))

    def get_tensor(self, name: str) -> Tensor:
        stored = self.get_slice(name)
        code = stored.get_dtype()
        if DTYPES.get(code, code) not in DTYPES.values():
            return self._file.get_tensor(name)  # no model takes it: WeightMap says so in its own words
        return stored.without_numbers(stored.get_shape())

    def drop_pages(self) -> None:
        self._file.drop_pages()
