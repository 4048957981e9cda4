"""The stack of blocks that decoders share with the encoders built like them: one fused call for each layer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay import ops
from assay.arena import aligned
from assay.layers import Embeddings, LayerNorm, RmsNorm, TransformerLayer, float32, in_dtype
from assay.models.decoder_shape import UNLIMITED, DecoderNames, DecoderShape, LayerNames

if TYPE_CHECKING:
    from torch import Tensor

    from assay.arena import Arena
    from assay.batch import RaggedBatch
    from assay.weights import WeightMap

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

    def arena_size(self, num_tokens: int, num_seqs: int) -> int:
        """Bytes of arena one call needs for a batch of this size."""
        row_bytes = self.shape.hidden_size * FLOAT32_BYTES
        size = aligned(num_tokens * row_bytes) + aligned(num_seqs * row_bytes)
        return size + aligned(self._workspace_size(num_tokens, num_seqs))

    def __call__(self, batch: RaggedBatch, arena: Arena, rows: Tensor | None = None) -> Tensor:
        """Hidden states [num_tokens, hidden_size], or with rows [num_seqs] only those, [num_seqs, hidden_size]."""
        import torch

        width = self.shape.hidden_size
        hidden_states = self.embeddings(batch, out=arena.take((batch.num_tokens, width), torch.float32))
        workspace = arena.take((self._workspace_size(batch.num_tokens, batch.num_seqs),), torch.uint8)
        batch = self._with_long_positions(batch)
        for layer, rope in zip(self.layers[:-1], self.ropes[:-1], strict=True):
            layer(hidden_states, batch, workspace, **_angles(rope))
        last: dict[str, Any] = _angles(self.ropes[-1])
        if rows is not None:
            last |= {"rows": rows, "rows_out": arena.take((batch.num_seqs, width), torch.float32)}
        out = self.layers[-1](hidden_states, batch, workspace, **last)
        return out if self.final_norm is None else self.final_norm(out, out=out)

    def _workspace_size(self, num_tokens: int, num_seqs: int) -> int:
        return max(layer.workspace_size(num_tokens, num_seqs) for layer in self.layers)

    def _with_long_positions(self, batch: RaggedBatch) -> RaggedBatch:
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


@dataclass(frozen=True, slots=True)
class DecoderLoader:
    """Takes a decoder's tensors by the family's names."""

    names: DecoderNames

    @property
    def word_table(self) -> str:
        return f"{self.names.word}.weight"

    def tensor_names(self, shape: DecoderShape) -> list[str]:
        """Every tensor of the backbone, without its prefix."""
        names = self.names
        tables = (names.word, names.position, names.token_type if shape.type_rows else None)
        listed = [f"{name}.weight" for name in tables if name]
        for name in (names.embedding_norm, names.final_norm):
            listed += _with_bias(name, shape.has_norm_bias)
        for idx in range(shape.num_layers):
            listed += [name.format(idx) for name in self._layer_tensors(shape, idx)]
        return listed

    def _layer_tensors(self, shape: DecoderShape, idx: int) -> list[str]:
        layer = self.names.layer
        listed = []
        for name in layer.qkv:
            listed += _with_bias(name, shape.has_qkv_bias)
        listed += _with_bias(layer.attn_out, shape.has_attn_out_bias)
        for name in layer.mlp_up:
            listed += _with_bias(name, shape.has_mlp_up_bias)
        listed += _with_bias(layer.mlp_down, shape.has_mlp_down_bias)
        for norm in layer.norms(shape.has_first_norm or idx > 0).values():
            listed += _with_bias(norm, shape.has_norm_bias)
        return listed + _with_bias(layer.q_norm, False) + _with_bias(layer.k_norm, False)

    def load(
        self, weights: WeightMap, prefix: str, shape: DecoderShape, arithmetic: str, max_model_len: int
    ) -> Decoder:
        """Take every tensor; rotary tables are made for max_model_len positions."""
        num_positions = min(max_model_len, shape.max_positions)
        tables = {}
        for kind, rope in shape.ropes.items():
            tables[kind] = RopeTables(*rope.tables(num_positions), rope.long_from)
        reader = _Reader(weights, prefix, shape, arithmetic)
        return Decoder(
            shape=shape,
            embeddings=reader.embeddings(self.names),
            layers=tuple(reader.layer(self.names.layer, idx) for idx in range(shape.num_layers)),
            ropes=tuple(tables.get(kind) for kind in shape.layer_types),
            final_norm=reader.norm(self.names.final_norm),
        )


def _with_bias(name: str | None, has_bias: bool) -> list[str]:
    return [f"{name}.{kind}" for kind in (("weight", "bias") if has_bias else ("weight",)) if name]


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads modules of one checkpoint."""

    weights: WeightMap
    prefix: str
    shape: DecoderShape
    arithmetic: str

    def embeddings(self, names: DecoderNames) -> Embeddings:
        norm = self.norm(names.embedding_norm)
        assert not isinstance(norm, RmsNorm)
        shape = self.shape
        word = self._table(names.word, shape.vocab_size)
        if word is not None and shape.embedding_scale != 1.0:
            # Rounded to the model's dtype before and after, as transformers multiplies.
            word = word * word.new_tensor(shape.embedding_scale)
        assert word is not None
        return Embeddings(
            word=word,
            position=self._table(names.position, shape.max_positions),
            task_type=self._table(names.token_type, shape.type_rows),
            norm=norm,
        )

    def _table(self, name: str | None, rows: int) -> Tensor | None:
        if name is None or rows == 0:
            return None
        stored = self.weights.take(f"{self.prefix}{name}.weight", (rows, self.shape.hidden_size))
        return in_dtype(stored, self.arithmetic)

    def norm(self, name: str | None) -> LayerNorm | RmsNorm | None:
        if name is None:
            return None
        shape, name = self.shape, self.prefix + name
        if shape.norm == "rms":
            return RmsNorm.load(self.weights, name, shape.hidden_size, shape.epsilon, offset=shape.norm_offset)
        return LayerNorm.load(self.weights, name, shape.hidden_size, shape.epsilon, has_bias=shape.has_norm_bias)

    def layer(self, names: LayerNames, idx: int) -> TransformerLayer:
        shape, hidden, inner = self.shape, self.shape.hidden_size, self.shape.intermediate_size
        kind = shape.layer_types[idx]
        rope = shape.ropes.get(kind)
        places = names.norms(shape.has_first_norm or idx > 0).items()
        norms: dict[str, Any] = {place: self.norm(None if name is None else name.format(idx)) for place, name in places}
        q_size = shape.qkv_sizes[0]

        def packed(modules: tuple[str, ...], sizes: tuple[int, ...], in_size: int, has_bias: bool) -> Any:
            located = [module.format(idx) for module in modules]
            weight, bias = self._stacked(located, sizes, in_size, has_bias, is_transposed=names.is_conv1d)
            return ops.pack_weight(weight, bias, self.arithmetic)

        return TransformerLayer.fuse(
            qkv=packed(names.qkv, shape.qkv_sizes, hidden, shape.has_qkv_bias),
            attn_out=packed((names.attn_out,), (hidden,), q_size, shape.has_attn_out_bias),
            mlp_up=self._gated(names, idx)
            if shape.is_gated
            else packed(names.mlp_up, (inner,), hidden, shape.has_mlp_up_bias),
            mlp_down=packed((names.mlp_down,), (hidden,), inner, shape.has_mlp_down_bias),
            norm=shape.norm,
            epsilon=shape.epsilon,
            **norms,
            q_norm=self._head_norm(names.q_norm, idx),
            k_norm=self._head_norm(names.k_norm, idx),
            activation=shape.activation,
            is_gated=shape.is_gated,
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            softmax_scale=shape.softmax_scales[idx],
            is_causal=shape.is_causal,
            window_size=shape.windows.get(kind, UNLIMITED),
            soft_cap=shape.soft_cap,
            rotary_dim=0 if rope is None else rope.rotary_dim,
        )

    def _head_norm(self, name: str | None, idx: int) -> Tensor | None:
        if name is None:
            return None
        stored = self.weights.take(f"{self.prefix}{name.format(idx)}.weight", (self.shape.head_dim,))
        return float32(stored) + self.shape.norm_offset

    def _gated(self, names: LayerNames, idx: int) -> Any:
        """The packed gate and up projections."""
        shape = self.shape
        located = [module.format(idx) for module in names.mlp_up]
        sizes = (shape.intermediate_size, shape.intermediate_size)
        weight, bias = self._stacked(located, sizes, shape.hidden_size, shape.has_mlp_up_bias)
        halves = list(zip(weight.chunk(2), (None, None) if bias is None else bias.chunk(2), strict=True))
        (gate, gate_bias), (up, up_bias) = reversed(halves) if names.is_up_first else halves
        return ops.pack_gated_weight(gate, up, gate_bias, up_bias, self.arithmetic)

    def _stacked(
        self, names: list[str], sizes: tuple[int, ...], in_size: int, has_bias: bool, *, is_transposed: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Weight [sum(sizes), in_size] and bias of projections laid one below the other, or of one already fused."""
        import torch

        rows = sizes if len(names) == len(sizes) else (sum(sizes),)
        weights, biases = [], []
        for name, size in zip(names, rows, strict=True):
            stored = (in_size, size) if is_transposed else (size, in_size)
            weight = self.weights.take(f"{self.prefix}{name}.weight", stored)
            weights.append(in_dtype(weight.T if is_transposed else weight, self.arithmetic))
            if has_bias:
                biases.append(float32(self.weights.take(f"{self.prefix}{name}.bias", (size,))))
        return torch.cat(weights), torch.cat(biases) if biases else None
