"""The encoder every family here shares: embeddings, an optional projection, post-LayerNorm blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from assay import ops
from assay.arena import aligned
from assay.layers import Embeddings, EncoderLayer, LayerNorm, Linear, float32, in_dtype, storage_dtype, tensors_of
from assay.models.padded_heads import pad_head_columns, pad_head_rows

if TYPE_CHECKING:
    from torch import Tensor

    from assay.arena import Arena
    from assay.batch import RaggedBatch
    from assay.models.encoder_shape import EncoderLayerNames, EncoderShape
    from assay.weights import WeightMap

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Encoder:
    """Weights of a backbone, and its forward pass."""

    shape: EncoderShape
    embeddings: Embeddings
    project: Linear | None
    layers: tuple[EncoderLayer, ...]

    def with_layers(self, layers: tuple[Any, ...]) -> Encoder:
        """The same backbone over other layers."""
        return replace(self, layers=layers)

    def arena_size(self, num_tokens: int, num_seqs: int) -> int:
        """Bytes of arena one call needs for a batch of this size."""
        shape = self.shape
        widths = [shape.hidden_size] + ([shape.embedding_size] if self.project is not None else [])
        size = sum(aligned(num_tokens * width * FLOAT32_BYTES) for width in widths)
        size += aligned(num_seqs * shape.hidden_size * FLOAT32_BYTES)
        return size + aligned(self._workspace_size(num_tokens, num_seqs))

    def _workspace_size(self, num_tokens: int, num_seqs: int) -> int:
        """All layers have one shape, but the last one may compute rows in a way of its own."""
        return max(layer.workspace_size(num_tokens, num_seqs) for layer in (self.layers[0], self.layers[-1]))

    def positioned(self, batch: RaggedBatch) -> RaggedBatch:
        """Positions are those of `pack`."""
        return batch

    def __call__(self, batch: RaggedBatch, arena: Arena, rows: Tensor | None = None) -> Tensor:
        """Hidden states [num_tokens, hidden_size], or with rows [num_seqs] only those, [num_seqs, hidden_size]."""
        import torch

        shape = self.shape
        hidden_states = arena.take((batch.num_tokens, shape.hidden_size), torch.float32)
        if self.project is None:
            self.embeddings(batch, out=hidden_states)
        else:
            embedded = arena.take((batch.num_tokens, shape.embedding_size), torch.float32)
            self.project(self.embeddings(batch, out=embedded), out=hidden_states)
        workspace = arena.take((self._workspace_size(batch.num_tokens, batch.num_seqs),), torch.uint8)
        rows_out = None if rows is None else arena.take((batch.num_seqs, shape.hidden_size), torch.float32)
        for layer in self.layers[:-1]:
            layer(hidden_states, batch, workspace)
        return self.layers[-1](hidden_states, batch, workspace, rows, rows_out)


@dataclass(frozen=True, slots=True)
class EncoderLoader:
    """Takes an encoder's tensors; the names inside a layer are the family's, those around the layers are BERT's."""

    layer: EncoderLayerNames

    @property
    def word_table(self) -> str:
        return "embeddings.word_embeddings.weight"

    def tensor_names(self, shape: EncoderShape) -> list[str]:
        """Every tensor of the backbone, without its prefix."""
        names = [self.word_table, "embeddings.position_embeddings.weight"]
        if shape.type_vocab_size:
            names.append("embeddings.token_type_embeddings.weight")
        if shape.task_type_vocab_size:
            names.append("embeddings.task_type_embeddings.weight")
        modules = ["embeddings.LayerNorm"]
        if shape.embedding_size != shape.hidden_size:
            modules.append("embeddings_project")
        layer = self.layer
        parts = [layer.query, layer.key, layer.value, layer.attn_out, layer.attn_norm]
        parts += [layer.mlp_up, layer.mlp_down, layer.mlp_norm]
        modules += [part.format(i) for i in range(shape.num_layers) for part in parts]
        return names + [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]

    def transposed_tensors(self, shape: EncoderShape) -> list[str]:
        """None."""
        return []

    def load(
        self,
        weights: WeightMap,
        prefix: str,
        shape: EncoderShape,
        arithmetic: str,
        *,
        max_model_len: int,
        reads_one_token: bool,
    ) -> Encoder:
        """Take every tensor; the position table is kept whole whatever max_model_len.

        reads_one_token: the last layer gets row_keys (`ops.fused_layer`) where it can have them.
        """
        return self._load(weights, prefix, shape, arithmetic, arithmetic, reads_one_token)

    def load_int8(
        self, weights: WeightMap, prefix: str, shape: EncoderShape, *, max_model_len: int, reads_one_token: bool
    ) -> Encoder:
        """The same with layers in int8 and the rest in bfloat16."""
        return self._load(weights, prefix, shape, "bfloat16", "int8", reads_one_token)

    def _load(
        self,
        weights: WeightMap,
        prefix: str,
        shape: EncoderShape,
        arithmetic: str,
        layer_arithmetic: str,
        reads_one_token: bool,
    ) -> Encoder:
        project = None
        if shape.embedding_size != shape.hidden_size:
            sizes = (shape.hidden_size, shape.embedding_size)
            project = Linear.load(weights, f"{prefix}embeddings_project", sizes, arithmetic)
        folds = reads_one_token and ops.takes_row_keys(shape.hidden_size, shape.padded_head_dim, weights.device)
        last = shape.num_layers - 1
        return Encoder(
            shape=shape,
            embeddings=_load_embeddings(weights, f"{prefix}embeddings", shape, arithmetic),
            project=project,
            layers=tuple(
                _load_layer(weights, prefix, i, self.layer, shape, layer_arithmetic, has_row_keys=folds and i == last)
                for i in range(shape.num_layers)
            ),
        )


def _load_embeddings(weights: WeightMap, name: str, shape: EncoderShape, arithmetic: str) -> Embeddings:
    def table(kind: str, rows: int) -> Tensor | None:
        if rows == 0:
            return None
        stored, sizes = f"{name}.{kind}_embeddings.weight", (rows, shape.embedding_size)
        return weights.part([stored], lambda: weights.take_as(stored, sizes, storage_dtype(arithmetic)))

    word, position = table("word", shape.vocab_size), table("position", shape.max_positions)
    assert word is not None and position is not None
    return Embeddings(
        word=word,
        position=position,
        token_type=table("token_type", shape.type_vocab_size),
        task_type=table("task_type", shape.task_type_vocab_size),
        norm=LayerNorm.load(weights, f"{name}.LayerNorm", shape.embedding_size, shape.epsilon),
        device=weights.device,
    )


def _load_layer(
    weights: WeightMap,
    prefix: str,
    index: int,
    names: EncoderLayerNames,
    shape: EncoderShape,
    arithmetic: str,
    *,
    has_row_keys: bool,
) -> EncoderLayer:
    hidden, inner = shape.hidden_size, shape.intermediate_size

    def linear(name: str, sizes: tuple[int, int]) -> Linear:
        return Linear.load(weights, prefix + name.format(index), sizes, arithmetic)

    def norm(name: str) -> LayerNorm:
        return LayerNorm.load(weights, prefix + name.format(index), hidden, shape.epsilon)

    qkv = [prefix + name.format(index) for name in (names.query, names.key, names.value)]
    return EncoderLayer.fuse(
        **_projections(weights, qkv, shape, arithmetic, has_row_keys=has_row_keys),
        attn_out=_attn_out(weights, prefix + names.attn_out.format(index), shape, arithmetic),
        attn_norm=norm(names.attn_norm),
        mlp_up=linear(names.mlp_up, (inner, hidden)),
        mlp_down=linear(names.mlp_down, (hidden, inner)),
        mlp_norm=norm(names.mlp_norm),
        activation=shape.activation,
        num_heads=shape.num_heads,
        softmax_scale=shape.head_dim**-0.5,
    )


def _projections(
    weights: WeightMap, names: list[str], shape: EncoderShape, arithmetic: str, *, has_row_keys: bool
) -> dict[str, Any]:
    """qkv, packed from the square weights of query, key and value, and row_keys: the key's, transposed head by head.

    Heads are filled up to shape.padded_head_dim.
    """
    import torch

    size, sizes = shape.hidden_size, (shape.head_dim, shape.padded_head_dim)

    def padded(name: str) -> Tensor:
        return pad_head_rows(in_dtype(weights.take(f"{name}.weight", (size, size)), arithmetic), *sizes)

    def qkv() -> Any:
        weight = torch.cat([padded(name) for name in names])
        bias = torch.cat([pad_head_rows(float32(weights.take(f"{name}.bias", (size,))), *sizes) for name in names])
        return ops.pack_weight(weight, bias, arithmetic, weights.device)

    def row_keys() -> Any:
        by_head = padded(names[1]).view(shape.num_heads, shape.padded_head_dim, size).transpose(1, 2)
        return ops.pack_weight(by_head.reshape(-1, shape.padded_head_dim), None, arithmetic)

    tensors = [tensor for name in names for tensor in tensors_of(name, has_bias=True)]
    return {
        "qkv": weights.part(tensors, qkv),
        "row_keys": weights.part([f"{names[1]}.weight"], row_keys) if has_row_keys else None,
    }


def _attn_out(weights: WeightMap, name: str, shape: EncoderShape, arithmetic: str) -> Linear:
    size = shape.hidden_size

    def packed() -> Linear:
        weight = in_dtype(weights.take(f"{name}.weight", (size, size)), arithmetic)
        bias = float32(weights.take(f"{name}.bias", (size,)))
        padded = pad_head_columns(weight, shape.head_dim, shape.padded_head_dim)
        return Linear.pack(padded, bias, arithmetic, weights.device)

    return weights.part(tensors_of(name, has_bias=True), packed)
