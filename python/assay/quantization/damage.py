"""What each layer alone would lose in int8: the model runs in bfloat16, and every layer runs twice on its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from assay.models.family import LayeredBackbone


class _Compared:
    """Stands for a layer: passes on what it computes, and adds up how far its int8 twin is from it."""

    def __init__(self, layer: Any, twin: Any) -> None:
        self._layer, self._twin = layer, twin
        self._error, self._size = 0.0, 0.0

    def workspace_size(self, num_tokens: int, num_seqs: int) -> int:
        sizes = [part.workspace_size(num_tokens, num_seqs) for part in (self._layer, self._twin)]
        return int(max(sizes))

    def __call__(
        self,
        hidden_states: Tensor,
        batch: Any,
        workspace: Tensor,
        rows: Tensor | None = None,
        rows_out: Tensor | None = None,
        **angles: Any,
    ) -> Tensor:
        import torch

        before = hidden_states.clone()
        spare = None if rows_out is None else torch.empty_like(rows_out)
        twin: Tensor = self._twin(before, batch, workspace, rows=rows, rows_out=spare, **angles)
        result: Tensor = self._layer(hidden_states, batch, workspace, rows=rows, rows_out=rows_out, **angles)
        self._error += (twin - result).double().square().sum().item()
        self._size += result.double().square().sum().item()
        return result

    @property
    def damage(self) -> float:
        """The relative error of the layer's output: root of squares over squares."""
        return float((self._error / self._size) ** 0.5) if self._size else 0.0


def layer_damage(
    backbone: LayeredBackbone, twins: tuple[Any, ...], run: Callable[[LayeredBackbone], None]
) -> list[float]:
    """The damage of every layer of `backbone` by its int8 twin, over what `run` computes with the backbone it gets."""
    compared = tuple(_Compared(layer, twin) for layer, twin in zip(backbone.layers, twins, strict=True))
    run(backbone.with_layers(compared))
    return [layer.damage for layer in compared]
