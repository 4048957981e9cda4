"""A loaded model: the backbone, and per task a pooling and a head."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

from assay import ops
from assay.arena import Arena
from assay.device import CPU
from assay.models.forward_pass import EmbeddingHead, PassInputs, TaskHead, forward_pass, pass_arena_size, row_flags
from assay.models.transformers_backbone import TransformersBackbone
from assay.pooler import ClassifierHead, normalized
from assay.tasks import SCORE_KINDS

if TYPE_CHECKING:
    from torch import Tensor

    from assay.batch import RaggedBatch
    from assay.config import PoolerConfig
    from assay.device import Device
    from assay.hf_config import HFConfig
    from assay.models.cuda_pass import CudaPass
    from assay.models.device_memory import DeviceMemory
    from assay.models.family import Backbone


_NUMBERS = itertools.count(1)


class PoolingModel:
    """Runs ragged batches for one active task. Not thread safe: one compute thread owns it."""

    def __init__(
        self,
        *,
        architecture: str,
        backbone: Backbone,
        heads: dict[str, TaskHead],
        task: str,
        hf_config: HFConfig,
        pooler_config: PoolerConfig,
        dtype: str,
        dtype_reason: str,
        max_model_len: int,
        max_model_len_source: str,
        embedding_size: int,
        max_batch_tokens: int,
        max_batch_size: int,
        product_arithmetic: str,
        device: Device = CPU,
        base: PoolingModel | None = None,
    ) -> None:
        """base: the model this one adapts: one thread runs both, in one arena."""
        self.architecture = architecture
        self.backbone = backbone
        self.heads = heads
        self.task = task
        self.hf_config = hf_config
        self.pooler_config = pooler_config
        self.dtype = dtype
        self.dtype_reason = dtype_reason
        self.max_model_len = max_model_len
        self.max_model_len_source = max_model_len_source
        self.embedding_size = embedding_size
        self.max_batch_tokens = max_batch_tokens
        self.max_batch_size = max_batch_size
        self.product_arithmetic = product_arithmetic
        self.device = device
        self.cuda_pass: CudaPass | None = None
        """What runs passes on a CUDA device; set once, by `cuda_start.start`."""
        self.device_memory: DeviceMemory | None = None
        self.number = next(_NUMBERS)
        """Of this model alone in this process."""
        if base is None:
            self._arena = Arena(self.arena_size(max_batch_tokens, max_batch_size), device)
        else:
            self._arena = base._arena

    @property
    def supported_tasks(self) -> tuple[str, ...]:
        return tuple(self.heads)

    @functools.cached_property
    def num_labels(self) -> int:
        """Kept, because the config makes a dictionary of all labels to count them, and every call asks."""
        return self.hf_config.num_labels

    @property
    def id2label(self) -> dict[int, str]:
        return self.hf_config.id2label

    @functools.cached_property
    def labels(self) -> list[str]:
        """Label names in the order of a result's entries."""
        id2label = self.id2label
        return [id2label.get(index, f"LABEL_{index}") for index in range(self.num_labels)]

    @property
    def hidden_size(self) -> int:
        return self.backbone.shape.hidden_size

    @property
    def vocab_size(self) -> int:
        """Rows of the word table: a token id must be below it."""
        return self.backbone.shape.vocab_size

    @property
    def position_offset(self) -> int:
        """What `pack` adds to every position."""
        return self.backbone.shape.position_offset

    @property
    def type_vocab_size(self) -> int:
        """Token types a request may name: each must be below it."""
        return self.backbone.shape.type_vocab_size

    @property
    def is_run_by_transformers(self) -> bool:
        """Whether the backbone is transformers' code on our kernels."""
        return isinstance(self.backbone, TransformersBackbone)

    @property
    def is_causal(self) -> bool:
        """Every token sees only those before it."""
        return self.backbone.shape.is_causal

    @property
    def num_positions(self) -> int:
        """Tokens of the longest sequence the weights have positions for."""
        return self.backbone.shape.max_model_len

    @property
    def default_use_activation(self) -> bool:
        """What a request that leaves use_activation None gets."""
        return self.pooler_config.use_activation is not False

    @property
    def pooling(self) -> str:
        """The pooling of the active task, in words."""
        return "+".join(self.heads[self.task].pooling)

    @property
    def activation_name(self) -> str:
        """What `use_activation` switches, in words."""
        head = self.heads[self.task].head
        return head.activation.name if isinstance(head, ClassifierHead) else "normalize"

    @property
    def score_kind(self) -> str | None:
        """How pairs are scored under the active task; None where they cannot be."""
        return SCORE_KINDS.get(self.task)

    @property
    def arithmetic(self) -> str:
        """How products are computed here, in words."""
        return ops.arithmetic_name(self.product_arithmetic, self.device)

    def arena_size(self, num_tokens: int, num_seqs: int) -> int:
        """Bytes of working memory for batches up to this size."""
        return pass_arena_size(self.backbone, num_tokens, num_seqs, self.device)

    def run(
        self, batch: RaggedBatch, use_activation: list[bool], dimensions: list[int | None] | None = None
    ) -> list[Tensor]:
        """One float32 tensor per sequence: classify [num_labels], embed [size], token tasks [num_tokens, ...].

        use_activation and dimensions hold one entry per sequence. Raises ValueError for an empty sequence.
        """
        if batch.num_seqs == 0:
            return []
        lengths = batch.seqlens()
        if min(lengths) == 0:
            raise ValueError(f"sequence {lengths.index(0)} of the batch is empty: there is nothing to pool")
        task = self.heads[self.task]
        flags = row_flags(use_activation, batch, task)
        inputs = PassInputs.of(self.backbone.positioned(batch), task, flags)
        rows = self.forward(inputs) if self.cuda_pass is None else self.cuda_pass(inputs)
        if isinstance(task.head, EmbeddingHead):
            counts = lengths if task.is_per_token else [1] * batch.num_seqs
            results = _finished(rows, counts, use_activation, dimensions)
            return results if task.is_per_token else [result[0] for result in results]
        scores = task.head.finish(rows, flags)
        return list(scores.split_with_sizes(lengths) if task.is_per_token else scores.unbind(0))

    def forward(self, inputs: PassInputs) -> Tensor:
        """The rows of a result for inputs that lie where the model runs; see `forward_pass`."""
        return forward_pass(self.backbone, self.heads[self.task], inputs, self._arena, self.device)


def _finished(
    rows: Tensor, lengths: list[int], use_activation: list[bool], dimensions: list[int | None] | None
) -> list[Tensor]:
    """Every sequence's rows cut to its dimensions and normalised where its flag is set; never views of the arena."""
    sizes = dimensions or [None] * len(lengths)
    if all(use_activation) and not any(sizes):
        return list(normalized(rows).split_with_sizes(lengths))
    results = []
    for part, size, flag in zip(rows.split_with_sizes(lengths), sizes, use_activation, strict=True):
        short = part[:, :size]
        results.append(normalized(short) if flag else short.clone())
    return results
