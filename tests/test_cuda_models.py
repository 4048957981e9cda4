"""Whole models on a CUDA device: transformers' answers, the same bits in any batch, and the same on every rung.

Runs in the emulation on few short inputs, and on a card, where there is one, on all of them.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest
import torch

import cuda_devices
import llms
import parity
import tiny_decoders
import tiny_models
import tiny_transformers
from assay import LLM, PoolingParams
from assay.batch import Sequence, pack
from assay.cuda_kernels import CudaKernels
from assay.device import Device
from assay.device_choice import choose_device
from assay.errors import BatchMemoryError, DeviceError, ValidationError
from assay.models import PoolingModel
from assay.models.graph_ladder import make_ladder
from assay.pooler import pool

if TYPE_CHECKING:
    from pathlib import Path

HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
EMULATED_LENGTHS = (1, 2, 9, 16, 17, 33)
LONG_LENGTHS = (3, 64, 65)
"""LongRoPE: on both sides of its original length."""
LIMITS = {"max_batch_tokens": 512, "max_batch_size": 16}
HALF_FACTOR = 1.1
LOGITS = PoolingParams(use_activation=False)


@pytest.fixture(params=cuda_devices.DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    """The emulated device, and the card where there is one."""
    if request.param.torch_device != "cpu":
        return choose_device("cuda")
    return emulated(request.param.module)


def emulated(module: Any, memory_bytes: int = 0) -> Device:
    return Device("cuda", 0, CudaKernels(module, "cpu"), "emulation", 80, memory_bytes, is_emulated=True)


def load(folder: Any, device: Device, **settings: Any) -> LLM:
    return LLM(folder, device=device, skip_tokenizer_init=True, self_check=False, **{**LIMITS, **settings})


def answers_for(
    tmp_path_factory: pytest.TempPathFactory, device: Device, name: str
) -> tuple[Any, list[list[int]], list[torch.Tensor], list[torch.Tensor]]:
    """Folder, inputs, and transformers' logits in float32 and bfloat16: on a card for every length, else for a few."""
    answers = tiny_decoders.answers(tmp_path_factory, name)
    few = LONG_LENGTHS if "longrope" in name else EMULATED_LENGTHS
    lengths = few if device.is_emulated else tiny_decoders.LENGTHS
    places = [tiny_decoders.LENGTHS.index(length) for length in lengths]
    ids, exact, rough = (
        [column[place] for place in places] for column in (answers.ids, answers.float32, answers.bfloat16)
    )
    return answers.folder, ids, exact, rough


def logits(llm: LLM, ids: list[list[int]]) -> list[torch.Tensor]:
    outputs = llm.encode(
        [{"prompt_token_ids": row} for row in ids], LOGITS, pooling_task=llm.pooling_task, use_tqdm=False
    )
    return [output.outputs.data for output in outputs]


def error(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    return max(float((a - b.float()).abs().max()) for a, b in zip(ours, theirs, strict=True))


def model_of(llm: LLM) -> PoolingModel:
    return llm.session.model


DECODERS = ["qwen3", "modernbert-mean", "gte", "gemma2", "gpt2", "gpt2-padded", "llama-longrope", "qwen3-token"]


@pytest.mark.parametrize("name", DECODERS)
def test_float32_is_that_of_transformers(tmp_path_factory: pytest.TempPathFactory, device: Device, name: str) -> None:
    folder, ids, exact, _ = answers_for(tmp_path_factory, device, name)
    with load(folder, device) as llm:
        assert model_of(llm).dtype == "float32"
        size = max(1.0, max(float(row.abs().max()) for row in exact))
        assert error(logits(llm, ids), exact) <= 1e-4 * size


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["qwen3", "modernbert-mean", "gemma2"])
def test_half_precision_loses_no_more_than_transformers(
    tmp_path_factory: pytest.TempPathFactory, device: Device, name: str, dtype: str
) -> None:
    """float16 has eight times the resolution of bfloat16: it is held to an eighth of what that loses."""
    folder, ids, exact, rough = answers_for(tmp_path_factory, device, name)
    allowed = HALF_FACTOR * error(rough, exact) / (8 if dtype == "float16" else 1)
    with load(folder, device, dtype=dtype) as llm:
        assert model_of(llm).backbone.embeddings.word.dtype == HALF[dtype]  # type: ignore[attr-defined]
        assert error(logits(llm, ids), exact) <= allowed


@pytest.mark.parametrize(
    ("head", "family"), [(llms.CLASSIFIER, "Bert"), (llms.TOKENS, "Roberta"), (llms.CLASSIFIER, "Electra")]
)
def test_encoders_are_those_of_transformers(device: Device, head: str, family: str) -> None:
    texts = ["A calm day.", "Nothing works!"]
    with LLM(llms.folder(head, 3, family), device=device, self_check=False, **LIMITS) as llm:
        outputs = llm.encode(texts, LOGITS, pooling_task=llm.pooling_task, use_tqdm=False)
        for text, output in zip(texts, outputs, strict=True):
            assert llms.close(output.outputs.data, llms.logits(text, head=head, family=family)), text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_padded_heads_of_an_encoder_are_those_of_transformers(device: Device, dtype: str, tmp_path: Path) -> None:
    """Heads of 26, which the kernels get as 32."""
    sizes = {"hidden_size": 104, "num_attention_heads": 4}
    folder = tiny_models.make(tmp_path / "model", "Bert", llms.CLASSIFIER, **sizes)
    texts: list[parity.Text] = ["A calm day.", ("Nothing works!", "and nobody answered")]
    expected = parity.make_reference(folder, f"Bert{llms.CLASSIFIER}", texts, 128)
    with LLM(folder, device=device, self_check=False, dtype=dtype, **LIMITS) as llm:
        sequences = [Sequence(*row) for row in zip(expected.ids, expected.types, strict=True)]
        model = model_of(llm)
        ours = model.run(pack(sequences, model.position_offset), [False] * len(sequences))
    lost = error(expected.bfloat16, expected.float32)
    allowed = parity.float32_budget(expected.float32) if dtype == "float32" else HALF_FACTOR * lost
    assert error(ours, expected.float32) <= allowed


# ---- one set of bits -----------------------------------------------------------------------------------------------


def results(model: PoolingModel, sequences: list[Sequence]) -> list[torch.Tensor]:
    return model.run(pack(sequences, model.position_offset), [True] * len(sequences))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["qwen3", "modernbert-mean", "gte", "gemma2-token"])
def test_an_input_has_the_same_bits_in_every_batch_and_on_every_rung(
    tmp_path_factory: pytest.TempPathFactory, device: Device, name: str, dtype: str
) -> None:
    """Eagerly at the exact size, and padded to a rung (on a card: replayed from its graph); alone and with others."""
    folder, ids, _, _ = answers_for(tmp_path_factory, device, name)
    sequences = [Sequence(row) for row in ids[: LIMITS["max_batch_size"]]]  # one batch
    with load(folder, device, dtype=dtype) as padded, load(folder, device, dtype=dtype, enforce_eager=True) as eager:
        exact = results(model_of(eager), sequences)
        runner = model_of(padded).cuda_pass
        assert runner is not None and runner.top_rung is not None
        assert model_of(eager).cuda_pass.top_rung is None  # type: ignore[union-attr]
        assert runner.num_graphs == (0 if device.is_emulated else len(make_ladder(512, 16)))
        for order in (sequences, sequences[::-1], sequences[2:4]):
            again = dict(zip([len(each) for each in order], results(model_of(padded), order), strict=True))
            for sequence, wanted in zip(sequences, exact, strict=True):
                assert len(sequence) not in again or torch.equal(again[len(sequence)], wanted), len(sequence)
        for model in (model_of(padded), model_of(eager)):
            alone = [results(model, [sequence])[0] for sequence in sequences]
            assert all(torch.equal(a, b) for a, b in zip(alone, exact, strict=True))


# ---- other tasks and ways ------------------------------------------------------------------------------------------


def test_embeddings_are_those_of_the_cpu(device: Device) -> None:
    """Cut and normalised on the host: whatever the device, the same function finishes the same rows."""
    folder = llms.folder(llms.MODEL, 3, "Bert")
    texts = ["A calm day.", "Nothing works, and nobody answered!"]
    asked = [PoolingParams(dimensions=None), PoolingParams(use_activation=False)]
    config = {
        "pooler_config": {"seq_pooling_type": "MEAN"},
        "hf_overrides": {"is_matryoshka": True},
        "dtype": "float32",  # by name: "auto" multiplies on AMX tiles on the one side
    }
    with (
        LLM(folder, device=device, self_check=False, **LIMITS, **config) as ours,
        LLM(folder, device="cpu", **config) as theirs,
    ):
        for params in asked:
            got, wanted = (llm.embed(texts, pooling_params=params, use_tqdm=False) for llm in (ours, theirs))
            for a, b in zip(got, wanted, strict=True):
                assert llms.close(a.outputs.embedding, torch.tensor(b.outputs.embedding), 1e-5)


@pytest.mark.parametrize("mode", ["max", "mean_sqrt_len_tokens", "weightedmean", ("cls", "mean")])
def test_poolings_of_torch_are_those_of_the_cpu(device: Device, mode: str | tuple[str, ...]) -> None:
    modes = (mode,) if isinstance(mode, str) else mode
    batch = pack([Sequence([5] * length) for length in (3, 1, 7)])
    rows = torch.randn(batch.num_tokens, 16, generator=torch.Generator().manual_seed(0))
    ours = pool(rows.to(device.torch_device), batch.on(device), modes, device).cpu()
    assert torch.allclose(ours, pool(rows, batch, modes), atol=1e-6)


@pytest.mark.parametrize("name", ["Phi3", "Qwen2Moe", "NomicBert", "Jamba"])
def test_models_through_transformers_run_on_our_attention_and_products(
    tmp_path_factory: pytest.TempPathFactory, device: Device, name: str
) -> None:
    """The start-up proof compares with transformers and packed with alone; here the CPU is the second opinion."""
    folder = tiny_transformers.checkpoint(tmp_path_factory, name)
    ids = [sequence.input_ids[:24] for sequence in tiny_transformers.sequences(4)]
    settings = {"model_impl": "transformers", "dtype": "float32", "skip_tokenizer_init": True, "self_check": False}
    with LLM(folder, device=device, **LIMITS, **settings) as ours, LLM(folder, device="cpu", **settings) as theirs:
        assert model_of(ours).cuda_pass.top_rung is None, "transformers allocates: no graphs"  # type: ignore[union-attr]
        assert error(logits(ours, ids), logits(theirs, ids)) <= 1e-4


# ---- memory and errors ---------------------------------------------------------------------------------------------


@cuda_devices.needs_emulation
def test_a_model_that_does_not_fit_is_refused_before_it_is_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tiny_decoders.answers(tmp_path_factory, "qwen3").folder
    small = emulated(cuda_devices.EMULATION, memory_bytes=1 << 16)
    with pytest.raises(DeviceError, match=r"emulated cuda: the model needs .* and gpu_memory_utilization=0.92 allows"):
        load(folder, small)


@cuda_devices.needs_emulation
def test_the_limit_counts_the_arena(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tiny_decoders.answers(tmp_path_factory, "qwen3").folder
    device = emulated(cuda_devices.EMULATION, memory_bytes=1 << 22)
    with load(folder, device) as llm:
        memory = model_of(llm).device_memory
        assert memory is not None and memory.total < 1 << 22
        assert str(memory) in llm.summary and "emulated cuda" in llm.summary
    with pytest.raises(DeviceError, match=r"arena .* lower max_batch_tokens"):
        load(folder, device, max_batch_tokens=8192)


def test_float16_checkpoints_stay_float16(tmp_path: Any, device: Device) -> None:
    folder = tiny_models.make(tmp_path, "Bert", llms.CLASSIFIER, dtype=torch.float16)
    with load(folder, device) as llm:
        assert (model_of(llm).dtype, model_of(llm).dtype_reason) == ("float16", "the checkpoint is float16")


def test_ids_outside_the_vocabulary_never_reach_the_device(
    tmp_path_factory: pytest.TempPathFactory, device: Device
) -> None:
    folder = tiny_decoders.answers(tmp_path_factory, "qwen3").folder
    with load(folder, device) as llm:
        with pytest.raises(ValidationError):
            logits(llm, [[5, tiny_decoders.VOCAB_SIZE]])
        with pytest.raises(ValueError, match="input_ids must be in"):
            results(model_of(llm), [Sequence([5, tiny_decoders.VOCAB_SIZE])])
        assert len(logits(llm, [[5, 6]])) == 1


# ---- on a card only ------------------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not cuda_devices.has_gpu, reason="needs a GPU")


@needs_gpu
def test_memory_is_what_is_stated(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is reserved beyond it, but for what the allocator rounds up."""
    folder = tiny_decoders.answers(tmp_path_factory, "qwen3").folder
    gc.collect()  # a model of another test, collected later, would make `grown` too small
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    with load(folder, choose_device("cuda")) as llm:
        memory = model_of(llm).device_memory
        assert memory is not None
        grown = torch.cuda.memory_allocated() - before
        assert abs(grown - (memory.total - memory.graphs)) <= 8 << 20
        ids = tiny_decoders.input_ids()
        logits(llm, ids)
        settled = torch.cuda.memory_allocated()
        logits(llm, ids)
        assert torch.cuda.memory_allocated() == settled


@needs_gpu
def test_too_little_memory_fails_a_batch_and_no_more(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Eager token classification allocates its result: with nothing left to allocate, that batch alone fails."""
    folder, ids, exact, _ = answers_for(tmp_path_factory, choose_device("cuda"), "qwen3-token")
    with load(folder, choose_device("cuda"), enforce_eager=True) as llm:
        torch.cuda.empty_cache()
        hoard = []
        try:
            for size in (1 << 30, 1 << 20, 1 << 10):
                try:
                    while True:
                        hoard.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
                except torch.OutOfMemoryError:
                    continue
            with pytest.raises(BatchMemoryError):
                logits(llm, ids)
        finally:
            hoard.clear()
            torch.cuda.empty_cache()
        assert error(logits(llm, ids), exact) <= 1e-3
