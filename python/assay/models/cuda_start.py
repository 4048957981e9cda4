"""The last steps of a start on a CUDA device: buffers, graphs, and the statement of memory."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from assay.batch import Sequence, pack
from assay.models.cuda_pass import CudaPass
from assay.models.forward_pass import PassInputs, row_flags
from assay.models.graph_ladder import MAX_GRAPH_BYTES, GraphBudget, Rung, make_ladder
from assay.models.staging import Limits, Staging, staging_size

if TYPE_CHECKING:
    from assay.device import Placement
    from assay.models.device_memory import DeviceMemory, MemoryMeter
    from assay.models.pooling_model import PoolingModel


def buffer_bytes(num_tokens: int, num_seqs: int, placement: Placement) -> int:
    """Device memory beside weights, arena and graphs."""
    return staging_size(Rung(num_tokens, num_seqs)) + int(placement.device.kernels.workspace_bytes)


def start(model: PoolingModel, longest: int, placement: Placement, memory: DeviceMemory, meter: MemoryMeter) -> None:
    """Give the model its `cuda_pass` and its `device_memory`. longest: tokens of the longest sequence."""
    task = model.heads[model.task]
    largest = Rung(model.max_batch_tokens, model.max_batch_size)
    ladder: tuple[Rung, ...] = ()
    if not placement.enforce_eager and task.can_be_captured and not model.is_run_by_transformers:
        ladder = make_ladder(largest.num_tokens, largest.num_seqs)
    limits = Limits(largest, longest, model.vocab_size, model.type_vocab_size)
    staging = Staging(limits, placement.device, is_per_token=task.is_per_token)
    runner = CudaPass(model.forward, staging, placement.device, ladder)
    budget = GraphBudget(_graph_bytes(memory, meter))
    if ladder:
        runner.capture(lambda rung: _example(model, rung, longest), budget)
    model.cuda_pass = runner
    model.device_memory = dataclasses.replace(memory, graphs=budget.used_bytes, num_graphs=runner.num_graphs)


def _graph_bytes(memory: DeviceMemory, meter: MemoryMeter) -> int:
    limit = meter.limit
    return MAX_GRAPH_BYTES if limit is None else min(MAX_GRAPH_BYTES, limit - memory.total)


def _example(model: PoolingModel, rung: Rung, longest: int) -> PassInputs:
    """A batch that fills a rung as far as its sequences go."""
    lengths: list[int] = []
    rest = rung.num_tokens
    while rest > 0 and len(lengths) < rung.num_seqs:
        lengths.append(min(rest, longest))
        rest -= lengths[-1]
    batch = pack([Sequence([0] * length) for length in lengths], model.position_offset)
    task = model.heads[model.task]
    return PassInputs.of(model.backbone.positioned(batch), task, row_flags([True] * len(lengths), batch, task))
