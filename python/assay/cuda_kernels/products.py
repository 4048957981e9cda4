"""Weights on the device, and the products and heads made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from assay.cuda_kernels.border import Border, address
from assay.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor

GEMM_MULTIPLE: Final = 8
"""Sizes of a weight the matrix kernels take are multiples of it: 16 bytes of a two-byte type."""
ALIGNMENT: Final = 16
_ARITHMETIC: Final = {
    "float32": "float32 products (no TF32)",
    "float16": "float16 tensor cores, float32 sums",
    "bfloat16": "bfloat16 tensor cores, float32 sums",
}


@dataclass(frozen=True, slots=True)
class DeviceWeight:
    """A linear layer's tensors on the device. product: the module's view of them; None for sizes only heads have."""

    weight: Tensor
    bias: Tensor | None
    out_features: int
    in_features: int
    product: Any
    is_gated: bool = False


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where it does not begin where kernels read 16 bytes at a time."""
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


class Products(Border):
    """`linear` and `classifier_head`."""

    def arithmetic_name(self, kind: str) -> str:
        """How products of a dtype are computed, in words."""
        return _ARITHMETIC[kind]

    def weight(self, weight: Tensor, bias: Tensor | None, arithmetic: str) -> DeviceWeight:
        """weight [out_features, in_features], bias float32 [out_features] or None; both are kept, not copied."""
        self._check_weight(weight, "weight", arithmetic)
        return self._weight(weight, bias, weight.shape[0], is_gated=False)

    def gated_weight(
        self, gate: Tensor, up: Tensor, gate_bias: Tensor | None, up_bias: Tensor | None, arithmetic: str
    ) -> DeviceWeight:
        """The gate's rows above those of the up matrix, in one tensor; see `ops.pack_gated_weight`."""
        import torch

        self._check_weight(gate, "gate", arithmetic)
        self._check_weight(up, "up", arithmetic)
        if gate.shape != up.shape or (gate_bias is None) != (up_bias is None):
            raise ValueError(f"up must have the shape of gate, {list(gate.shape)}, got {list(up.shape)}")
        bias = None
        if gate_bias is not None and up_bias is not None:
            bias = torch.cat([gate_bias, up_bias])
        return self._weight(torch.cat([gate, up]), bias, gate.shape[0], is_gated=True)

    def _weight(self, weight: Tensor, bias: Tensor | None, out_features: int, *, is_gated: bool) -> DeviceWeight:
        import torch

        if bias is not None:
            self._checks.check(bias, "bias", (torch.float32,), (weight.shape[0],))
            bias = _aligned(bias)
        weight = _aligned(weight)
        in_features = weight.shape[1]
        product = None
        if out_features % GEMM_MULTIPLE == 0 and in_features % GEMM_MULTIPLE == 0:
            product = self._module.Weight(weight, bias, is_gated)
        elif weight.dtype != torch.float32 or is_gated:
            raise UnsupportedModelError(
                f"weight must have sizes that are multiples of {GEMM_MULTIPLE} on CUDA, got "
                f"{[out_features, in_features]}: use device='cpu'"
            )
        return DeviceWeight(weight, bias, out_features, in_features, product, is_gated)

    def _check_weight(self, weight: Tensor, name: str, arithmetic: str) -> None:
        import torch

        if arithmetic not in ("float32_fma", *_ARITHMETIC):
            raise ValueError(f"arithmetic={arithmetic!r}: choose one of float32_fma, {', '.join(_ARITHMETIC)}")
        dtype = torch.float32 if arithmetic == "float32_fma" else getattr(torch, arithmetic)
        self._checks.check(weight, name, (dtype,), (None, None))

    def linear(
        self, hidden_states: Tensor, weight: DeviceWeight, activation: str, residual: Tensor | None, out: Tensor
    ) -> None:
        """See `ops.linear`. Input and output of another dtype than the weight's are converted on the way."""
        import torch

        dtype = weight.weight.dtype
        if weight.product is None:
            self._narrow_product(hidden_states, weight, activation, residual, out)
            return
        target = out if out.dtype in (dtype, torch.float32) else torch.empty_like(out, dtype=torch.float32)
        self._module.linear(hidden_states.to(dtype), weight.product, activation, residual, target, None, self._stream())
        if target is not out:
            out.copy_(target)

    def _narrow_product(
        self, rows: Tensor, weight: DeviceWeight, activation: str, residual: Tensor | None, out: Tensor
    ) -> None:
        """The product of a weight with the sizes of a head, by the head's kernel."""
        import torch

        if activation != "none" or residual is not None:
            raise ValueError(f"activation and residual must be absent for a weight of {weight.out_features} rows")
        plain = torch.zeros(len(rows), dtype=torch.uint8, device=rows.device)
        target = out if out.dtype == torch.float32 else torch.empty_like(out, dtype=torch.float32)
        self.classifier_head(rows.float(), None, "none", weight, 0.0, 1.0, plain, None, target)
        if target is not out:
            out.copy_(target)

    def classifier_head(
        self,
        pooled: Tensor,
        dense: DeviceWeight | None,
        dense_activation: str,
        classifier: DeviceWeight,
        logit_mean: float,
        logit_sigma: float,
        row_activations: Tensor,
        dense_buffer: Tensor | None,
        out: Tensor,
    ) -> None:
        """See `ops.classifier_head`."""
        import torch

        num_rows, check = len(pooled), self._checks.check
        check(pooled, "pooled", (torch.float32,), (None, (dense or classifier).in_features))
        check(row_activations, "row_activations", (torch.uint8,), (num_rows,))
        check(out, "out", (torch.float32,), (num_rows, classifier.out_features))
        if dense is not None:
            check(dense_buffer, "buffer", (torch.float32,), (num_rows, dense.out_features))
            if classifier.in_features != dense.out_features:
                raise ValueError(f"classifier must take {dense.out_features} features, got {classifier.in_features}")
        for part, name in ((dense, "dense"), (classifier, "classifier")):
            if part is not None and part.weight.dtype != torch.float32:
                raise ValueError(f"{name} must be float32, got {part.weight.dtype}")
        self._module.classifier_head(
            pooled=address(pooled),
            dense_weight=0 if dense is None else address(dense.weight),
            dense_bias=0 if dense is None else address(dense.bias),
            dense_activation=dense_activation,
            classifier_weight=address(classifier.weight),
            classifier_bias=address(classifier.bias),
            logit_mean=logit_mean,
            logit_sigma=logit_sigma,
            row_activations=address(row_activations),
            dense_buffer=address(dense_buffer),
            out=address(out),
            num_rows=num_rows,
            hidden_size=pooled.shape[1],
            dense_size=0 if dense is None else dense.out_features,
            num_labels=classifier.out_features,
            stream=self._stream(),
        )
