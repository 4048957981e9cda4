"""The files of a checkpoint: tensors by name, mapped rather than read, in pages that can be given back."""

from __future__ import annotations

import functools
import json
import mmap
import zipfile
from typing import TYPE_CHECKING, Protocol

from assay.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch
    from torch import Tensor

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""safetensors' names of the dtypes, and torch's."""


def dtype_name(code: str) -> str:
    """torch's name of a stored dtype, or the file's where torch has none of these."""
    return _DTYPES.get(code, code)


class StoredTensor(Protocol):
    """What can be asked about a tensor without taking it."""

    def get_shape(self) -> list[int]: ...

    def get_dtype(self) -> str:
        """The dtype as the file calls it; see `dtype_name`."""
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


def torch_dtype(code: str, name: str) -> torch.dtype:
    """torch's dtype of a stored one, for the tensor `name`; raises WeightsError where it has none."""
    import torch

    dtype = getattr(torch, _DTYPES.get(code, code), None)
    if not isinstance(dtype, torch.dtype):
        raise WeightsError(f"{name} has dtype {code}; only float checkpoints are supported")
    return dtype


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

        self._path = path
        try:
            safe_open(path, framework="np")  # reads the header, and refuses one that does not fit the file
            with path.open("rb") as file:
                header_size = int.from_bytes(file.read(8), "little")
                self._entries = json.loads(file.read(header_size))
        except (SafetensorError, OSError) as err:
            raise WeightsError(f"{path} is not a readable safetensors file: {err}") from err
        self._entries.pop("__metadata__", None)
        self._data_start = 8 + header_size

    @functools.cached_property
    def _map(self) -> mmap.mmap:
        """The whole file. Private, because torch wants memory it may write to, and the file must not change by it."""
        with self._path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def keys(self) -> list[str]:
        return list(self._entries)

    def get_slice(self, name: str) -> StoredTensor:
        entry = self._entries[name]
        return _Slice(entry["shape"], entry["dtype"], lambda: self.get_tensor(name))

    def get_tensor(self, name: str) -> Tensor:
        """A view of the mapping, which lives as long as the tensor does."""
        import torch

        entry = self._entries[name]
        dtype = torch_dtype(entry["dtype"], name)
        first, last = entry["data_offsets"]
        if first == last:
            return torch.empty(entry["shape"], dtype=dtype)
        start = self._data_start + first
        stored = torch.frombuffer(self._map, dtype=torch.uint8, count=last - first, offset=start)
        if start % dtype.itemsize:  # files whose header is not padded
            stored = stored.clone()
        return stored.view(dtype).view(entry["shape"])

    def drop_pages(self) -> None:
        # Nobody writes to the tensors, so every page comes back from the file when it is read again.
        if "_map" in self.__dict__ and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


class _Slice:
    """A tensor that is there when rows of it are asked for. dtype: the file's own name of it."""

    def __init__(self, shape: list[int], dtype: str, whole: Callable[[], Tensor]) -> None:
        self._shape, self._dtype, self._whole = shape, dtype, whole

    def get_shape(self) -> list[int]:
        return self._shape

    def get_dtype(self) -> str:
        return self._dtype

    def __getitem__(self, rows: slice) -> Tensor:
        return self._whole()[rows]


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
        tensor: Tensor = self._state[name]
        return _Slice(list(tensor.shape), str(tensor.dtype).removeprefix("torch."), lambda: tensor)

    def get_tensor(self, name: str) -> Tensor:
        """A copy: a tensor of the state would keep the memory of all of them."""
        import torch

        tensor: Tensor = self._state[name]
        return tensor.clone(memory_format=torch.contiguous_format)

    def drop_pages(self) -> None:
        """Nothing: the memory is torch's, which lets go of it with the last tensor of the state."""


class _Shapes:
    """A file of which the header alone is of interest."""

    def __init__(self, file: CheckpointFile) -> None:
        self._file = file

    def keys(self) -> list[str]:
        return self._file.keys()

    def get_slice(self, name: str) -> StoredTensor:
        stored = self._file.get_slice(name)
        return _Slice(stored.get_shape(), stored.get_dtype(), lambda: self.get_tensor(name))

    def get_tensor(self, name: str) -> Tensor:
        import torch

        stored = self._file.get_slice(name)
        shape = stored.get_shape()
        device = "cpu" if len(shape) < 2 else "meta"
        return torch.zeros(shape, dtype=torch_dtype(stored.get_dtype(), name), device=device)

    def drop_pages(self) -> None:
        """Nothing: no tensor was read."""
