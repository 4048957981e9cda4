"""From a checkpoint to a `Decoder`: projections, fused or not, are taken by the family's names and packed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from assay import ops
from assay.layers import Embeddings, LayerNorm, RmsNorm, TransformerLayer, float32, in_dtype, storage_dtype, tensors_of
from assay.models.decoder import Decoder, RopeTables
from assay.models.decoder_shape import UNLIMITED, DecoderNames, DecoderShape, LayerNames
from assay.models.padded_heads import pad_head_columns, pad_head_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from assay.weights import WeightMap


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
        return listed + layer_tensors(names.layer, shape)

    def transposed_tensors(self, shape: DecoderShape) -> list[str]:
        """All projections of a family that has them so."""
        layer = self.names.layer
        modules = (*layer.qkv, layer.attn_out, *layer.mlp_up, layer.mlp_down) if layer.is_conv1d else ()
        return [f"{name.format(idx)}.weight" for idx in range(shape.num_layers) for name in modules]

    def load(
        self,
        weights: WeightMap,
        prefix: str,
        shape: DecoderShape,
        arithmetic: str,
        *,
        max_model_len: int,
        reads_one_token: bool,
    ) -> Decoder:
        """Take every tensor; rotary tables are made for max_model_len positions.

        reads_one_token changes nothing: no layer here can have row_keys (`ops.fused_layer`), for all have rotary
        positions or an attn_in_norm.
        """
        return self._load(_Reader(weights, prefix, shape, arithmetic, arithmetic), max_model_len)

    def load_int8(
        self, weights: WeightMap, prefix: str, shape: DecoderShape, *, max_model_len: int, reads_one_token: bool
    ) -> Decoder:
        """The same with layers in int8 and the rest in bfloat16."""
        return self._load(_Reader(weights, prefix, shape, "bfloat16", "int8"), max_model_len)

    def _load(self, reader: _Reader, max_model_len: int) -> Decoder:
        shape = reader.shape
        tables = _rope_tables(shape, min(max_model_len, shape.max_positions), reader.weights)
        return Decoder(
            shape=shape,
            embeddings=reader.embeddings(self.names),
            layers=reader.layers(self.names.layer),
            ropes=tuple(tables.get(kind) for kind in shape.layer_types),
            final_norm=reader.norm(self.names.final_norm),
        )


def layer_tensors(names: LayerNames, shape: DecoderShape) -> list[str]:
    """Every tensor of the layers, without their prefix."""
    listed = []
    for idx in range(shape.num_layers):
        of_layer = []
        for name in names.qkv:
            of_layer += _with_bias(name, shape.has_qkv_bias)
        of_layer += _with_bias(names.attn_out, shape.has_attn_out_bias)
        for name in names.mlp_up:
            of_layer += _with_bias(name, shape.has_mlp_up_bias)
        of_layer += _with_bias(names.mlp_down, shape.has_mlp_down_bias)
        for norm in names.norms(shape.has_first_norm or idx > 0).values():
            of_layer += _with_bias(norm, shape.has_norm_bias)
        of_layer += _with_bias(names.q_norm, False) + _with_bias(names.k_norm, False)
        listed += [name.format(idx) for name in of_layer]
    return listed


def load_layers(
    names: LayerNames, weights: WeightMap, prefix: str, shape: DecoderShape, arithmetic: str
) -> tuple[TransformerLayer, ...]:
    """A stack of layers by itself, without embeddings, rotary tables and last norm."""
    return _Reader(weights, prefix, shape, arithmetic, arithmetic).layers(names)


def _rope_tables(shape: DecoderShape, num_positions: int, weights: WeightMap) -> dict[str, RopeTables]:
    """The tables of every kind of layer there is; kinds with one `Rope` share one."""
    made: dict[int, RopeTables] = {}
    tables = {}
    for kind in sorted(set(shape.layer_types) & set(shape.ropes)):
        rope = shape.ropes[kind]
        if id(rope) not in made:
            # Made on the CPU: the same angles whatever the device.
            cos, sin = rope.tables(num_positions, "cpu" if weights.has_numbers else "meta")
            if weights.has_numbers:
                cos, sin = cos.to(weights.device.torch_device), sin.to(weights.device.torch_device)
            made[id(rope)] = RopeTables(cos, sin, rope.long_from)
        tables[kind] = made[id(rope)]
    return tables


def _with_bias(name: str | None, has_bias: bool) -> list[str]:
    return [] if name is None else tensors_of(name, has_bias=has_bias)


@dataclass(frozen=True, slots=True)
class _Rows:
    """A projection before it is packed: weight [out_features, in_features], bias [out_features] or None."""

    weight: Tensor
    bias: Tensor | None

    def ungrouped(self, shape: DecoderShape) -> _Rows:
        """Query rows, then key rows, then value rows, of a weight that holds them group by group."""
        import torch

        num_groups, head_dim = shape.num_kv_heads, shape.head_dim
        rows = torch.arange(self.weight.shape[0]).view(num_groups, -1, head_dim)
        order = torch.cat([part.flatten() for part in (rows[:, :-2], rows[:, -2], rows[:, -1])])
        return _Rows(self.weight[order], None if self.bias is None else self.bias[order])

    def padded_rows(self, shape: DecoderShape) -> _Rows:
        """With the heads of a query, key and value projection filled up."""
        sizes = (shape.head_dim, shape.padded_head_dim)
        bias = None if self.bias is None else pad_head_rows(self.bias, *sizes)
        return _Rows(pad_head_rows(self.weight, *sizes), bias)

    def padded_columns(self, shape: DecoderShape) -> _Rows:
        """With the heads that an output projection reads filled up."""
        return _Rows(pad_head_columns(self.weight, shape.head_dim, shape.padded_head_dim), self.bias)


def _halved(bias: Tensor | None) -> tuple[Tensor | None, ...]:
    return (None, None) if bias is None else bias.chunk(2)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads modules of one checkpoint. arithmetic: of the tables; layer_arithmetic: of the products in the layers."""

    weights: WeightMap
    prefix: str
    shape: DecoderShape
    arithmetic: str
    layer_arithmetic: str

    def embeddings(self, names: DecoderNames) -> Embeddings:
        shape, norm = self.shape, self.norm(names.embedding_norm)
        assert not isinstance(norm, RmsNorm)
        word = self._table(names.word, shape.vocab_size, shape.embedding_scale)
        position = None if names.position is None else self._table(names.position, shape.max_positions)
        task_type = None
        if names.token_type is not None and shape.type_rows:
            task_type = self._table(names.token_type, shape.type_rows)
        return Embeddings(word=word, position=position, task_type=task_type, norm=norm, device=self.weights.device)

    def _table(self, name: str, rows: int, scale: float = 1.0) -> Tensor:
        stored, sizes = f"{self.prefix}{name}.weight", (rows, self.shape.hidden_size)

        def scaled() -> Tensor:
            table = self.weights.take_as(stored, sizes, storage_dtype(self.arithmetic))
            # The factor is rounded to the model's dtype, and so is the product: as transformers multiplies.
            return table if scale == 1.0 else table * table.new_tensor(scale)

        return self.weights.part([stored], scaled)

    def norm(self, name: str | None) -> LayerNorm | RmsNorm | None:
        if name is None:
            return None
        shape, name = self.shape, self.prefix + name
        if shape.norm == "rms":
            return RmsNorm.load(self.weights, name, shape.hidden_size, shape.epsilon, offset=shape.norm_offset)
        return LayerNorm.load(self.weights, name, shape.hidden_size, shape.epsilon, has_bias=shape.has_norm_bias)

    def layers(self, names: LayerNames) -> tuple[TransformerLayer, ...]:
        return tuple(self.layer(names, idx) for idx in range(self.shape.num_layers))

    def layer(self, names: LayerNames, idx: int) -> TransformerLayer:
        shape, hidden, inner = self.shape, self.shape.hidden_size, self.shape.intermediate_size
        kind = shape.layer_types[idx]
        rope = shape.ropes.get(kind)
        places = names.norms(shape.has_first_norm or idx > 0).items()
        norms: dict[str, Any] = {place: self.norm(None if name is None else name.format(idx)) for place, name in places}

        def packed(
            modules: tuple[str, ...],
            sizes: tuple[int, ...],
            in_size: int,
            has_bias: bool,
            pack: Callable[[_Rows], Any] = self._packed,
        ) -> Any:
            located = [self.prefix + module.format(idx) for module in modules]
            tensors = [tensor for name in located for tensor in tensors_of(name, has_bias=has_bias)]
            rows = partial(self._stacked, located, sizes, in_size, has_bias, is_transposed=names.is_conv1d)
            return self.weights.part(tensors, lambda: pack(rows()))

        def qkv(rows: _Rows) -> Any:
            return self._packed((rows.ungrouped(shape) if names.is_qkv_grouped else rows).padded_rows(shape))

        def attn_out(rows: _Rows) -> Any:
            return self._packed(rows.padded_columns(shape))

        def gated(rows: _Rows) -> Any:
            return self._gated(rows, names.is_up_first)

        up_sizes, pack_up = ((inner, inner), gated) if shape.is_gated else ((inner,), self._packed)
        return TransformerLayer.fuse(
            qkv=packed(names.qkv, shape.qkv_sizes, hidden, shape.has_qkv_bias, qkv),
            attn_out=packed((names.attn_out,), (hidden,), shape.qkv_sizes[0], shape.has_attn_out_bias, attn_out),
            mlp_up=packed(names.mlp_up, up_sizes, hidden, shape.has_mlp_up_bias, pack_up),
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
            head_dim=shape.padded_head_dim,
            softmax_scale=shape.softmax_scales[idx],
            is_causal=shape.is_causal,
            window_size=shape.windows.get(kind, UNLIMITED),
            soft_cap=shape.soft_cap,
            rotary_dim=0 if rope is None else rope.rotary_dim,
            device=self.weights.device,
        )

    def _head_norm(self, name: str | None, idx: int) -> Tensor | None:
        if name is None:
            return None
        stored = self.weights.take(f"{self.prefix}{name.format(idx)}.weight", (self.shape.head_dim,))
        return float32(stored) + self.shape.norm_offset

    def _packed(self, rows: _Rows) -> Any:
        return ops.pack_weight(rows.weight, rows.bias, self.layer_arithmetic, self.weights.device)

    def _gated(self, rows: _Rows, is_up_first: bool) -> Any:
        """The packed gate and up projections of a weight that holds both."""
        halves = list(zip(rows.weight.chunk(2), _halved(rows.bias), strict=True))
        (gate, gate_bias), (up, up_bias) = reversed(halves) if is_up_first else halves
        return ops.pack_gated_weight(gate, up, gate_bias, up_bias, self.layer_arithmetic, self.weights.device)

    def _stacked(
        self, names: list[str], sizes: tuple[int, ...], in_size: int, has_bias: bool, *, is_transposed: bool
    ) -> _Rows:
        """Projections of `sizes` rows laid one below the other; `names` has as many, or one that is fused already."""
        import torch

        rows = sizes if len(names) == len(sizes) else (sum(sizes),)
        weights, biases = [], []
        for name, size in zip(names, rows, strict=True):
            stored = (in_size, size) if is_transposed else (size, in_size)
            weight = self.weights.take(f"{name}.weight", stored)
            weights.append(in_dtype(weight.T if is_transposed else weight, self.layer_arithmetic))
            if has_bias:
                biases.append(float32(self.weights.take(f"{name}.bias", (size,))))
        return _Rows(weights[0] if len(weights) == 1 else torch.cat(weights), torch.cat(biases) if has_bias else None)
