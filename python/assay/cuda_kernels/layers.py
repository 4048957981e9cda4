"""The fused transformer layer, and the matrix library its products may use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from assay.cuda_kernels.border import Border

if TYPE_CHECKING:
    from types import ModuleType

    from torch import Tensor

GEMM_WORKSPACE_BYTES: Final = 32 << 20
"""What cuBLASLt's fastest products want on Hopper."""


class Layers(Border):
    """`transformer_layer`. The library's handle and workspace belong to this object: one per model."""

    def __init__(self, module: ModuleType, torch_device: str) -> None:
        super().__init__(module, torch_device)
        self._library: Any = None
        self._workspace: Tensor | None = None
        self._is_library_asked = False

    @property
    def workspace_bytes(self) -> int:
        """Device memory of the matrix library."""
        return 0 if self._workspace is None else self._workspace.numel()

    def layer(self, **parts: Any) -> Any:
        """See `layers.TransformerLayer.fuse`; each product's algorithm is chosen here, once a weight."""
        packed = {name: parts.pop(name).product for name in ("qkv", "attn_out", "mlp_up", "mlp_down")}
        return self._module.TransformerLayer(**packed, **parts, cublas_lt=self._matrix_library(), stream=self._stream())

    def _matrix_library(self) -> Any:
        """cuBLASLt's handle, opened when the first layer is made; None where our own products are used throughout."""
        import torch

        if not self._is_library_asked and self._torch_device != "cpu":
            self._is_library_asked = True
            workspace = torch.empty(GEMM_WORKSPACE_BYTES, dtype=torch.uint8, device=self._torch_device)
            self._library = self._module.open_cublas_lt(workspace)
            self._workspace = None if self._library is None else workspace
        return self._library

    def transformer_layer_workspace_size(self, layer: Any, num_tokens: int, num_seqs: int) -> int:
        """Bytes of workspace `transformer_layer` needs for a batch of up to this size."""
        return int(self._module.transformer_layer_workspace_size(layer, num_tokens, num_seqs))

    def transformer_layer(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        layer: Any,
        workspace: Tensor,
        position_ids: Tensor | None,
        cos: Tensor | None,
        sin: Tensor | None,
        rows: Tensor | None,
        rows_out: Tensor | None,
        schedule: Tensor | None,
    ) -> None:
        """See `ops.transformer_layer`; the true number of tokens is read on the device, at the end of cu_seqlens."""
        self._module.transformer_layer(
            hidden_states,
            cu_seqlens,
            max_seqlen,
            layer,
            workspace,
            position_ids,
            cos,
            sin,
            rows,
            rows_out,
            self._stream(),
            schedule,
        )
