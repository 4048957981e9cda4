"""One forward pass of a model for one task: backbone, pooling, head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from assay import ops
from assay.arena import aligned
from assay.models.plan import ALL_TOKENS
from assay.pooler import KERNEL_MODES, ClassifierHead, pool, reads_one_token

if TYPE_CHECKING:
    from torch import Tensor

    from assay.arena import Arena
    from assay.batch import RaggedBatch
    from assay.device import Device
    from assay.models.family import Backbone
    from assay.models.sentence_transformer import Dense


@dataclass(frozen=True, slots=True)
class EmbeddingHead:
    """Dense layers in order, then L2 normalisation where the row asks for it."""

    dense: tuple[Dense, ...] = ()

    def __call__(self, pooled: Tensor) -> Tensor:
        """Embeddings [num_rows, embedding_size] before normalisation, of pooled [num_rows, hidden_size]."""
        for layer in self.dense:
            pooled = layer(pooled)
        return pooled


@dataclass(frozen=True, slots=True)
class TaskHead:
    """How one task reads the hidden states. pooling: modes of `pooler.pool`, or ALL_TOKENS."""

    pooling: tuple[str, ...]
    head: ClassifierHead | EmbeddingHead

    @property
    def is_per_token(self) -> bool:
        return self.pooling == ALL_TOKENS

    @property
    def reads_one_token(self) -> bool:
        """Whether the last layer need compute one token of each sequence only."""
        return reads_one_token(self.pooling)

    @property
    def can_be_captured(self) -> bool:
        """Whether nothing but the kernels is needed, whatever the lengths of the sequences."""
        return self.is_per_token or all(mode in KERNEL_MODES for mode in self.pooling)


@dataclass(frozen=True, slots=True)
class PassInputs:
    """What one pass reads. rows: int32 [num_seqs], the token of each sequence that is read, or None for all.

    row_activations: uint8 [num_rows], codes of `ops.classifier_head` for the rows of the result.
    """

    batch: RaggedBatch
    rows: Tensor | None
    row_activations: Tensor

    @classmethod
    def of(cls, batch: RaggedBatch, task: TaskHead, row_flags: Tensor) -> PassInputs:
        """For a batch on the CPU and `row_flags` of its rows."""
        codes = row_flags
        if isinstance(task.head, ClassifierHead) and task.head.activation_code != 1:
            codes = codes * task.head.activation_code
        rows = None
        if task.reads_one_token:
            rows = batch.cu_seqlens[:-1] if task.pooling == ("cls",) else batch.cu_seqlens[1:] - 1
        return cls(batch, rows, codes)


def row_flags(use_activation: list[bool], batch: RaggedBatch, task: TaskHead) -> Tensor:
    """uint8 [num_rows]: which rows of the result ask for the activation, from one entry per sequence."""
    import torch

    flags = torch.frombuffer(bytearray(use_activation), dtype=torch.uint8)
    return flags.repeat_interleave(batch.cu_seqlens.diff()) if task.is_per_token else flags


def pass_arena_size(backbone: Backbone, num_tokens: int, num_seqs: int, device: Device) -> int:
    """Bytes of arena `forward_pass` needs for a batch of up to this size."""
    schedule = ops.attention_schedule_size(num_tokens, num_seqs, device)
    return backbone.arena_size(num_tokens, num_seqs) + aligned(schedule)


def _scheduled(batch: RaggedBatch, backbone: Backbone, arena: Arena, device: Device) -> RaggedBatch:
    """The batch with what all layers on a CUDA device share."""
    import torch

    size = ops.attention_schedule_size(batch.num_tokens, batch.num_seqs, device)
    if size == 0:
        return batch
    schedule = arena.take((size,), torch.uint8)
    is_causal = backbone.shape.is_causal
    ops.attention_schedule(batch.cu_seqlens, batch.num_tokens, schedule, is_causal=is_causal, device=device)
    return replace(batch, schedule=schedule)


def forward_pass(backbone: Backbone, task: TaskHead, inputs: PassInputs, arena: Arena, device: Device) -> Tensor:
    """Rows of the result, one per sequence or one per token, [num_rows, width] float32; they may lie in the arena."""
    arena.reset()
    batch = _scheduled(inputs.batch, backbone, arena, device)
    hidden_states = backbone(batch, arena, inputs.rows)
    if inputs.rows is None and not task.is_per_token:
        hidden_states = pool(hidden_states, batch, task.pooling, device)
    if isinstance(task.head, EmbeddingHead):
        return task.head(hidden_states)
    return task.head(hidden_states, inputs.row_activations)
