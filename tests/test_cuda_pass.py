"""How a batch gets to a CUDA device and back: staging, rungs, faults and memory. Runs without a card or a module."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from assay.batch import Sequence, pack
from assay.device import Placement
from assay.errors import ConfigError, DeviceError, DeviceFaultError
from assay.models.cuda_pass import CudaPass
from assay.models.device_memory import GIB, DeviceMemory, MemoryMeter
from assay.models.forward_pass import PassInputs
from assay.models.graph_ladder import Rung
from assay.models.staging import Limits, Staging
from cuda_inputs import DEVICE, inputs

LENGTHS = [3, 1, 4]


def staging(*, is_per_token: bool = False, max_seqlen: int = 64) -> Staging:
    limits = Limits(Rung(64, 16), max_seqlen, vocab_size=100, num_types=2)
    return Staging(limits, DEVICE, is_per_token=is_per_token)


@pytest.mark.parametrize("has_types", [True, False])
@pytest.mark.parametrize("is_per_token", [True, False])
def test_a_batch_arrives_as_it_is(is_per_token: bool, has_types: bool) -> None:
    sent = inputs(LENGTHS, is_per_token=is_per_token, has_types=has_types)
    got = staging(is_per_token=is_per_token).put(sent)
    for name in ("input_ids", "position_ids", "cu_seqlens"):
        assert torch.equal(getattr(got.batch, name), getattr(sent.batch, name)), name
    assert got.batch.token_type_ids is not None
    types = sent.batch.token_type_ids if has_types else torch.zeros(8, dtype=torch.int32)
    assert torch.equal(got.batch.token_type_ids, types)
    assert torch.equal(got.row_activations, sent.row_activations)
    assert (got.rows is None) == is_per_token
    assert got.rows is None or torch.equal(got.rows, sent.rows)
    assert got.batch.seqlens() == LENGTHS
    assert (got.batch.num_tokens, got.batch.num_seqs, got.batch.max_seqlen) == (8, 3, 4)


def test_a_rung_pads_buffers_and_leaves_no_trace_of_the_batch_before() -> None:
    stage, rung = staging(), Rung(16, 6)
    stage.put(inputs([16] * 4))  # fills the buffers with other things
    got = stage.put(inputs(LENGTHS), rung)
    assert got.batch.input_ids.tolist() == [1, 2, 3, 1, 1, 2, 3, 4, *[0] * 8]
    assert got.batch.position_ids.tolist() == [0, 1, 2, 0, 0, 1, 2, 3, *[0] * 8]
    assert got.batch.cu_seqlens.tolist() == [0, 3, 4, 8, 8, 8, 8]
    assert got.rows is not None and got.rows.tolist() == [2, 3, 7, 0, 0, 0]
    assert got.row_activations.tolist() == [1, 2, 3, 0, 0, 0]
    assert (got.batch.num_tokens, got.batch.num_seqs) == (16, 6)
    assert got.batch.known_seqlens is None


@pytest.mark.parametrize(("longest", "bound"), [(12, 12), (64, 16)])
def test_a_rung_states_the_longest_sequence_it_may_be_replayed_with(longest: int, bound: int) -> None:
    assert staging(max_seqlen=longest).put(inputs([2]), Rung(16, 4)).batch.max_seqlen == bound


@pytest.mark.parametrize(
    ("sequences", "error", "message"),
    [
        ([Sequence([1, 2]), Sequence([3, 100])], ValueError, r"input_ids must be in \[0, 100\), got 100 at index 3"),
        ([Sequence([-1])], ValueError, r"input_ids must be in \[0, 100\), got -1 at index 0"),
        ([Sequence([1, 1], [0, 2])], ValueError, r"token_type_ids must be in \[0, 2\), got 2 at index 1"),
        ([Sequence([1] * 65)], ValueError, "max_seqlen must be <= 64, got 65"),
        ([Sequence([1] * 40), Sequence([1] * 40)], ConfigError, "80 tokens in 2 sequences, and there is room for"),
        ([Sequence([1])] * 17, ConfigError, "17 tokens in 17 sequences, and there is room for"),
    ],
)
def test_what_the_device_cannot_check_is_checked_before(
    sequences: list[Sequence], error: type[Exception], message: str
) -> None:
    batch = pack(sequences)
    with pytest.raises(error, match=message):
        staging().put(PassInputs(batch, None, torch.zeros(batch.num_seqs, dtype=torch.uint8)))


def test_results_are_those_of_the_batch_and_not_of_its_padding() -> None:
    seen: list[PassInputs] = []

    def forward(staged: PassInputs) -> torch.Tensor:
        seen.append(staged)
        assert staged.rows is not None
        return staged.batch.input_ids[staged.rows.long()].float().unsqueeze(1)

    runner = CudaPass(forward, staging(), DEVICE, (Rung(16, 4), Rung(32, 8)))
    first = runner(inputs([3, 1, 4]))
    second = runner(inputs([5] * 5))
    third = runner(inputs([9] * 5))
    assert first.flatten().tolist() == [3, 1, 4]
    assert second.flatten().tolist() == [5] * 5 and third.flatten().tolist() == [9] * 5
    assert [staged.batch.num_tokens for staged in seen] == [16, 32, 45], "above the ladder a batch keeps its size"
    assert runner.top_rung == Rung(32, 8)
    assert CudaPass(forward, staging(), DEVICE)(inputs([3])).flatten().tolist() == [3]
    assert seen[-1].batch.num_tokens == 3


def test_results_belong_to_the_caller() -> None:
    held = torch.zeros(8, 2)
    runner = CudaPass(lambda staged: held, staging(), DEVICE)
    result = runner(inputs([1, 2]))
    held.fill_(7)
    assert result.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceFaultError),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), torch.OutOfMemoryError),
        (ValueError("input_ids must be int32"), ValueError),
    ],
)
def test_faults_of_the_gpu_have_a_type_of_their_own(raised: Exception, expected: type[Exception]) -> None:
    def forward(staged: Any) -> torch.Tensor:
        raise raised

    with pytest.raises(expected) as caught:
        CudaPass(forward, staging(), DEVICE)(inputs([1]))
    assert type(caught.value) is expected


def placement(memory_bytes: int, share: float = 0.5) -> Placement:
    device = dataclasses.replace(DEVICE, name="a card", memory_bytes=memory_bytes)
    return Placement(device, memory_utilization=share)


def test_more_than_the_share_of_the_memory_is_refused_with_the_sum() -> None:
    meter = MemoryMeter(placement(8 * GIB))
    meter.check(DeviceMemory(weights=3 * GIB, arena=GIB))
    with pytest.raises(DeviceError) as caught:
        meter.check(DeviceMemory(weights=3 * GIB, arena=GIB, buffers=1))
    message = str(caught.value)
    assert "the model needs 4.00 GiB (weights 3.00 GiB, arena 1.00 GiB" in message
    assert "gpu_memory_utilization=0.5 allows 4.00 GiB of 8.00 GiB" in message


def test_unknown_memory_has_no_limit() -> None:
    MemoryMeter(placement(0)).check(DeviceMemory(weights=1 << 60, arena=0))


def test_the_allocators_own_refusal_is_explained() -> None:
    with pytest.raises(DeviceError, match="out of memory while the model was loaded: CUDA out of memory"):
        with MemoryMeter(placement(GIB)).explaining():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_memory_is_stated_in_words() -> None:
    memory = DeviceMemory(weights=3 << 29, arena=200 << 20, buffers=1 << 20, graphs=64 << 20, num_graphs=40)
    assert str(memory) == "weights 1.50 GiB, arena 0.20 GiB, buffers 1.0 MiB, 40 graphs 0.06 GiB"
    assert memory.total == (3 << 29) + (265 << 20)
