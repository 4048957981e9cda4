"""Mixtures of experts: each expert's products on the rows routed to it, with bits that depend on no other row."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.device import CPU
from assay.layers import Linear, float32, in_dtype
from assay.models.packed_products import lanes, product

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from assay.device import Device


def is_experts(module: Any) -> bool:
    """Whether a module holds experts in the form transformers' experts interface defines."""
    return all(hasattr(module, name) for name in ("has_gate", "has_bias", "is_transposed", "_apply_gate", "down_proj"))


def is_router(module: Any) -> bool:
    """Whether a module scores experts by one matrix of its own."""
    names = [name for name, _ in module.named_parameters(recurse=False)]
    return type(module).__name__.endswith("Router") and names == ["weight"] and module.weight.ndim == 2


@dataclass(frozen=True, slots=True)
class RouterWeight:
    """Stands where a router's weight was: torch.nn.functional.linear with it is our product, all else fails.

    Always of float32 arithmetic: a close call between two experts should not hang on a coarser one.
    """

    linear: Linear

    def type(self, dtype: torch.dtype) -> RouterWeight:
        """Routers that ask for a float32 copy have it already."""
        import torch

        if dtype != torch.float32:
            raise TypeError(f"a router's weight is float32 here, {dtype} was asked for")
        return self

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        import torch

        is_plain = len(args) in (2, 3) and not any(part is not None for part in args[2:]) and not kwargs
        if func is not torch.nn.functional.linear or not is_plain or not isinstance(args[1], cls):
            return NotImplemented
        return product(args[1].linear, args[0])


def pack_experts(module: Any, arithmetic: str, device: Device = CPU) -> None:
    """Let every router and every group of experts inside compute by our kernel, and free their weights."""
    for part in module.modules():
        if is_router(part):
            weight = RouterWeight(_linear(part.weight.detach(), None, "float32", device))
            del part.weight
            part.weight = weight
        elif is_experts(part):
            ups = _linears(part, "gate_up_proj" if part.has_gate else "up_proj", arithmetic, device)
            downs = _linears(part, "down_proj", arithmetic, device)
            act = part._apply_gate if part.has_gate else part.act_fn
            part.forward = functools.partial(_run_experts, list(zip(ups, downs, strict=True)), act)


def _linears(module: Any, name: str, arithmetic: str, device: Device) -> list[Linear]:
    """One packed layer per expert; the parameter of all of them goes."""
    weights = getattr(module, name).detach()
    weights = weights.transpose(1, 2) if module.is_transposed else weights
    biases = getattr(module, f"{name}_bias").detach() if module.has_bias else [None] * len(weights)
    linears = [_linear(weight, bias, arithmetic, device) for weight, bias in zip(weights, biases, strict=True)]
    setattr(module, name, None)
    return linears


def _linear(weight: Tensor, bias: Tensor | None, arithmetic: str, device: Device) -> Linear:
    return Linear.pack(in_dtype(weight, arithmetic), None if bias is None else float32(bias), arithmetic, device)


def _run_experts(
    experts: list[tuple[Linear, Linear]], act: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """hidden_states [num_tokens, hidden_size], top_k_* [num_tokens, k] -> the weighted sum of k experts' outputs.

    A token's experts are added in the order of their numbers, whatever else is in the batch.
    """
    import torch
    from torch.nn.functional import pad

    out = torch.zeros_like(hidden_states)
    multiple = lanes(hidden_states.dtype, is_cuda=hidden_states.is_cuda)
    for index, (up, down) in enumerate(experts):
        token_idx, rank = torch.where(top_k_index == index)
        num_rows = len(token_idx)
        if num_rows == 0:
            continue
        rows = pad(hidden_states[token_idx], (0, 0, 0, -num_rows % multiple))
        rows = product(down, act(product(up, rows)))[:num_rows]
        out.index_add_(0, token_idx, (rows * top_k_weights[token_idx, rank, None]).to(out.dtype))
    return out
