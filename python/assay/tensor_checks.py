"""Checks of tensors whose addresses are about to be handed out; messages are those of the compiled CPU module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class TensorChecks:
    """For tensors that must lie on one device. Every check raises ValueError with the argument and what came."""

    def __init__(self, torch_device: str) -> None:
        import torch

        self._device = torch.device(torch_device)

    def check(
        self,
        tensor: Any,
        name: str,
        dtypes: tuple[torch.dtype, ...],
        shape: tuple[int | None, ...],
        *,
        is_contiguous: bool = True,
    ) -> None:
        """Dtype, device, sizes (None matches all) and contiguity, of the last dimension at least."""
        import torch

        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.dtype not in dtypes:
            wanted = " or ".join(_dtype_name(dtype) for dtype in dtypes)
            raise ValueError(f"{name} must be {wanted}, got {_dtype_name(tensor.dtype)}")
        if tensor.device != self._device:
            raise ValueError(f"{name} must be on {self._device}, got {tensor.device}")
        sizes = tuple(tensor.shape)
        fits = len(sizes) == len(shape) and all(want in (None, got) for want, got in zip(shape, sizes, strict=True))
        if not fits:
            wanted = ", ".join("*" if size is None else str(size) for size in shape)
            raise ValueError(f"{name} must have shape [{wanted}], got {list(sizes)}")
        if is_contiguous and not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous, got strides {list(tensor.stride())}")
        if sizes[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(f"{name} must be contiguous in its last dimension, got stride {tensor.stride(-1)}")


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
