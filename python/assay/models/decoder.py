"""The stack of blocks that decoders share with the encoders built like them: one fused call for each layer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.arena import aligned

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from assay.arena import Arena
    from assay.batch import RaggedBatch
    from assay.layers import Embeddings, LayerNorm, RmsNorm, TransformerLayer
    from assay.models.decoder_shape import DecoderShape

    AfterLayer = Callable[[int, Tensor], None]

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class RopeTables:
    """Cosines and sines [num_positions, rotary_dim / 2] float32; long_from: see `Rope.long_from`."""

    cos: Tensor
    sin: Tensor
    long_from: int | None = None


@dataclass(frozen=True, slots=True)
class Decoder:
    """Weights of a backbone, and its forward pass. ropes: one table for each layer, or None."""

    shape: DecoderShape
    embeddings: Embeddings
    layers: tuple[TransformerLayer, ...]
    ropes: tuple[RopeTables | None, ...]
    final_norm: LayerNorm | RmsNorm | None

    def with_layers(self, layers: tuple[Any, ...]) -> Decoder:
        """The same backbone over other layers."""
        return dataclasses.replace(self, layers=layers)

    def arena_size(self, num_tokens: int, num_seqs: int) -> int:
        """Bytes of arena one call needs for a batch of this size."""
        row_bytes = self.shape.hidden_size * FLOAT32_BYTES
        size = aligned(num_tokens * row_bytes) + aligned(num_seqs * row_bytes)
        return size + aligned(self._workspace_size(num_tokens, num_seqs))

    def __call__(self, batch: RaggedBatch, arena: Arena, rows: Tensor | None = None) -> Tensor:
        """Hidden states [num_tokens, hidden_size], or with rows [num_seqs] only those, [num_seqs, hidden_size]."""
        return self.run(self.embedded(batch, arena), batch, arena, rows)

    def embedded(self, batch: RaggedBatch, arena: Arena) -> Tensor:
        """What the first layer reads: [num_tokens, hidden_size] float32."""
        import torch

        return self.embeddings(batch, out=arena.take((batch.num_tokens, self.shape.hidden_size), torch.float32))

    def run(
        self,
        hidden_states: Tensor,
        batch: RaggedBatch,
        arena: Arena,
        rows: Tensor | None = None,
        *,
        rope: RopeTables | None = None,
        after_layer: AfterLayer | None = None,
    ) -> Tensor:
        """The layers and the last norm, on hidden_states [num_tokens, hidden_size], which are overwritten.

        rope: angles of batch.position_ids for every layer instead of its own. after_layer: called between two layers
        with the number of the first and what it gave.
        """
        import torch

        ropes = self.ropes if rope is None else (rope,) * len(self.layers)
        workspace = arena.take((self._workspace_size(batch.num_tokens, batch.num_seqs),), torch.uint8)
        for idx, layer in enumerate(self.layers[:-1]):
            layer(hidden_states, batch, workspace, **_angles(ropes[idx]))
            if after_layer is not None:
                after_layer(idx, hidden_states)
        last: dict[str, Any] = _angles(ropes[-1])
        if rows is not None:
            width = self.shape.hidden_size
            last |= {"rows": rows, "rows_out": arena.take((batch.num_seqs, width), torch.float32)}
        out = self.layers[-1](hidden_states, batch, workspace, **last)
        return out if self.final_norm is None else self.final_norm(out, out=out)

    def _workspace_size(self, num_tokens: int, num_seqs: int) -> int:
        return max(layer.workspace_size(num_tokens, num_seqs) for layer in self.layers)

    def positioned(self, batch: RaggedBatch) -> RaggedBatch:
        """LongRoPE: sequences past its original length read the second half of the tables."""
        rope = self.ropes[0]
        if rope is None or rope.long_from is None:
            return batch
        lengths = batch.cu_seqlens.diff()
        is_long = (lengths > rope.long_from).repeat_interleave(lengths)
        shift = is_long.to(batch.position_ids.dtype) * (rope.cos.shape[0] // 2)
        return dataclasses.replace(batch, position_ids=batch.position_ids + shift)


def _angles(rope: RopeTables | None) -> dict[str, Tensor]:
    return {} if rope is None else {"cos": rope.cos, "sin": rope.sin}
