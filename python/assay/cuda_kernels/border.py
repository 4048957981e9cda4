"""What all CUDA ops share: the module, the stream, addresses, and the checks of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.tensor_checks import TensorChecks

if TYPE_CHECKING:
    from types import ModuleType

    from torch import Tensor


def address(tensor: Tensor | None) -> int:
    """What the module takes for a tensor; 0 for None."""
    return 0 if tensor is None else int(tensor.data_ptr())


def dtype_name(tensor: Tensor) -> str:
    """ "float32", "float16", ..."""
    return str(tensor.dtype).removeprefix("torch.")


class Border:
    """torch_device: where every tensor must lie; "cpu" for the emulated module."""

    def __init__(self, module: ModuleType, torch_device: str) -> None:
        self._module = module
        self._torch_device = torch_device
        self._checks = TensorChecks(torch_device)

    @property
    def module_file(self) -> str:
        """The compiled module's file."""
        return str(self._module.__file__)

    def _stream(self) -> int:
        """The address of torch's current stream; 0 in the emulation."""
        if self._torch_device == "cpu":
            return 0
        import torch

        return int(torch.cuda.current_stream(self._torch_device).cuda_stream)

    @staticmethod
    def _floats() -> tuple[Any, ...]:
        import torch

        return torch.float32, torch.float16, torch.bfloat16

    def _check_heads(
        self, tensor: Tensor, name: str, dtypes: tuple[Any, ...], num_tokens: int | None, head_dim: int | None
    ) -> None:
        """[num_tokens, heads, head_dim] with contiguous heads; tokens may lie apart."""
        self._checks.check(tensor, name, dtypes, (num_tokens, None, head_dim), is_contiguous=False)
        if tensor.shape[1] > 1 and tensor.stride(1) != tensor.shape[2]:
            raise ValueError(f"{name} must have contiguous heads, got head stride {tensor.stride(1)}")
