"""A transformers backbone that runs ragged batches: its products and its attention are ours, the rest is row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.batch import RaggedBatch
from assay.device import CPU
from assay.models.packed_attention import SEQUENCES, PackedSequences
from assay.models.packed_experts import pack_experts
from assay.models.packed_mamba import pack_mixers
from assay.models.packed_products import lanes, one_thread, pack_products
from assay.models.packed_relative import pack_relative

if TYPE_CHECKING:
    from torch import Tensor

    from assay.arena import Arena
    from assay.device import Device
    from assay.models.transformers_class import TransformersShape
    from assay.models.transformers_head import HeadModules


@dataclass(frozen=True, slots=True)
class TransformersBackbone:
    """A transformers model without its head, in evaluation mode.

    late_head: what every token goes through behind the model, where a class pools no sooner.
    """

    shape: TransformersShape
    module: Any
    sequences: PackedSequences
    late_head: HeadModules | None = None

    @classmethod
    def prepare(
        cls, module: Any, shape: TransformersShape, arithmetic: str, device: Device = CPU
    ) -> TransformersBackbone:
        """Take over a loaded module: its linear layers are packed, and each submodule learns of the sequences."""
        sequences = PackedSequences(device)
        for part in module.modules():
            setattr(part, SEQUENCES, sequences)
        module.config.use_cache = False
        pack_products(module, arithmetic, device)
        pack_experts(module, arithmetic, device)
        pack_mixers(module, sequences, device)
        pack_relative(module, sequences, shape.max_model_len, arithmetic, device)
        return cls(shape, module, sequences)

    def arena_size(self, num_tokens: int, num_seqs: int) -> int:
        """Bytes of arena one call needs: none, transformers allocates what it needs."""
        return 0

    def positioned(self, batch: RaggedBatch) -> RaggedBatch:
        """Positions are those of `pack`."""
        return batch

    def __call__(self, batch: RaggedBatch, arena: Arena, rows: Tensor | None = None) -> Tensor:
        """Hidden states [num_tokens, hidden_size] float32, or with rows [num_seqs] only those."""
        import torch

        padded = _padded(batch, lanes(self.module.dtype, is_cuda=batch.input_ids.is_cuda))
        ids = {"input_ids": padded.input_ids, "position_ids": padded.position_ids}
        if padded.token_type_ids is not None and self.shape.type_vocab_size:
            ids["token_type_ids"] = padded.token_type_ids
        self.sequences.start(padded)
        with torch.inference_mode(), one_thread():
            output = self.module(**{name: column.long().unsqueeze(0) for name, column in ids.items()})
            hidden_states: Tensor = output.last_hidden_state[0]
            hidden_states = (hidden_states[: batch.num_tokens] if rows is None else hidden_states[rows]).float()
        return hidden_states if self.late_head is None else self.late_head(hidden_states)


def _padded(batch: RaggedBatch, multiple: int) -> RaggedBatch:
    """The batch plus one-token sequences up to a multiple of so many tokens (see `lanes`)."""
    import torch
    from torch.nn.functional import pad

    extra = -batch.num_tokens % multiple
    ends = torch.arange(
        batch.num_tokens + 1, batch.num_tokens + extra + 1, dtype=torch.int32, device=batch.cu_seqlens.device
    )
    types, known = batch.token_type_ids, batch.known_seqlens

    def extended(column: Tensor) -> Tensor:  # by its first value, which need not be read back from a device
        return torch.cat([column, column[:1].expand(extra)])

    return RaggedBatch(
        input_ids=extended(batch.input_ids),
        position_ids=extended(batch.position_ids),
        token_type_ids=None if types is None else pad(types, (0, extra)),
        cu_seqlens=torch.cat([batch.cu_seqlens, ends]),
        max_seqlen=batch.max_seqlen,
        num_tokens=batch.num_tokens + extra,
        num_seqs=batch.num_seqs + extra,
        known_seqlens=None if known is None else [*known, *[1] * extra],
    )
