"""The way of a batch to the device: one pinned block of host memory, its twin on the device, one copy between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from assay.arena import aligned
from assay.batch import RaggedBatch
from assay.errors import ConfigError
from assay.models.forward_pass import PassInputs
from assay.models.graph_ladder import Rung

if TYPE_CHECKING:
    from torch import Tensor

    from assay.device import Device

INT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class _Columns:
    """Views of one block for one size of batch. row_activations has a value for each token where is_per_token.

    end: bytes of the block in use.
    """

    input_ids: Tensor
    position_ids: Tensor
    token_type_ids: Tensor
    cu_seqlens: Tensor
    rows: Tensor
    row_activations: Tensor
    end: int

    @classmethod
    def of(cls, block: Tensor, size: Rung, is_per_token: bool) -> _Columns:
        import torch

        tokens, seqs = size.num_tokens, size.num_seqs
        views = []
        end = 0
        for count in (tokens, tokens, tokens, seqs + 1, seqs):
            views.append(block[end : end + count * INT32_BYTES].view(torch.int32))
            end += aligned(count * INT32_BYTES)
        count = tokens if is_per_token else seqs
        ids, positions, types, cu_seqlens, rows = views
        return cls(ids, positions, types, cu_seqlens, rows, block[end : end + count], end + count)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a batch may hold: nothing on the device checks it. num_types 0: the model reads no token types."""

    size: Rung
    max_seqlen: int
    vocab_size: int
    num_types: int

    def check(self, batch: RaggedBatch) -> None:
        """Raise ValueError for an id outside its table or a sequence without positions, ConfigError for too many."""
        _check_ids(batch.input_ids, "input_ids", self.vocab_size)
        if batch.token_type_ids is not None and self.num_types:
            _check_ids(batch.token_type_ids, "token_type_ids", self.num_types)
        if batch.max_seqlen > self.max_seqlen:
            raise ValueError(f"max_seqlen must be <= {self.max_seqlen}, got {batch.max_seqlen}")
        if batch.num_tokens > self.size.num_tokens or batch.num_seqs > self.size.num_seqs:
            raise ConfigError(
                f"the batch has {batch.num_tokens} tokens in {batch.num_seqs} sequences, and there is room for "
                f"max_batch_tokens={self.size.num_tokens} and max_batch_size={self.size.num_seqs}"
            )


def _check_ids(ids: Tensor, name: str, num_rows: int) -> None:
    values = ids.numpy()
    is_wrong = (values < 0) | (values >= num_rows)
    if is_wrong.any():
        index = int(is_wrong.argmax())
        raise ValueError(f"{name} must be in [0, {num_rows}), got {values[index]} at index {index}")


class Staging:
    """Takes one batch at a time: the one before must have been copied when the next is put in."""

    def __init__(self, limits: Limits, device: Device, *, is_per_token: bool) -> None:
        import torch

        size = limits.size
        self._limits = limits
        self._is_per_token = is_per_token
        self.size_bytes = staging_size(size)
        self._host = torch.zeros(self.size_bytes, dtype=torch.uint8, pin_memory=device.has_streams)
        self._device = torch.zeros(self.size_bytes, dtype=torch.uint8, device=device.torch_device)
        self._views: dict[Rung, tuple[_Columns, _Columns]] = {}

    def put(self, inputs: PassInputs, rung: Rung | None = None) -> PassInputs:
        """Start copying a batch from the CPU; what `inputs` is on the device once the copy is done.

        With a rung the tensors have its sizes: tokens behind the last one are 0, sequences behind the last one empty.
        Raises what `Limits.check` does.
        """
        batch = inputs.batch
        self._limits.check(batch)
        size = rung or Rung(batch.num_tokens, batch.num_seqs)
        host, staged = self._columns(size, is_kept=rung is not None)
        _fill(host.input_ids, batch.input_ids)
        _fill(host.position_ids, batch.position_ids)
        _fill(host.token_type_ids, batch.token_type_ids)
        _fill(host.cu_seqlens, batch.cu_seqlens, batch.num_tokens)
        _fill(host.rows, inputs.rows)
        _fill(host.row_activations, inputs.row_activations)
        self._device[: host.end].copy_(self._host[: host.end], non_blocking=True)
        return PassInputs(
            RaggedBatch(
                input_ids=staged.input_ids,
                position_ids=staged.position_ids,
                token_type_ids=staged.token_type_ids,
                cu_seqlens=staged.cu_seqlens,
                max_seqlen=batch.max_seqlen if rung is None else min(rung.num_tokens, self._limits.max_seqlen),
                num_tokens=size.num_tokens,
                num_seqs=size.num_seqs,
                known_seqlens=batch.seqlens() if rung is None else None,
            ),
            None if inputs.rows is None else staged.rows,
            staged.row_activations,
        )

    def _columns(self, size: Rung, *, is_kept: bool) -> tuple[_Columns, _Columns]:
        """Views of both blocks; those of a rung are made once."""
        if size in self._views:
            return self._views[size]
        host, device = (_Columns.of(block, size, self._is_per_token) for block in (self._host, self._device))
        if is_kept:
            self._views[size] = host, device
        return host, device


def staging_size(size: Rung) -> int:
    """Bytes of the block for batches of up to this size."""
    tokens, seqs = size.num_tokens, size.num_seqs
    return 3 * aligned(tokens * INT32_BYTES) + 2 * aligned((seqs + 1) * INT32_BYTES) + max(tokens, seqs)


def _fill(target: Tensor, values: Tensor | None, rest: int = 0) -> None:
    """`values` at the start of `target`, `rest` behind them."""
    count = 0 if values is None else len(values)
    if values is not None:
        target[:count].copy_(values)
    target[count:].fill_(rest)
