"""Heads that are no multiple of 8 wide, filled up with zeros: against transformers, in any batch, and in a plan."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import torch

import cpu_isas
from assay import ops
from assay.batch import Sequence, pack
from assay.config import EngineConfig, PoolerConfig
from assay.errors import UnsupportedModelError
from assay.files import resolve_model
from assay.hf_config import HFConfig
from assay.memory import Base, plan_memory
from assay.memory.weigh import backbone_bytes
from assay.models.encoder_shape import EncoderShape
from assay.models.padded_heads import pad_head_columns, pad_head_rows
from parity import Reference, float32_budget, load, make_reference, max_error, mean_error, run
from tiny_models import all_inputs, make

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "ForSequenceClassification"
MAX_LENGTH = 128
STRIDE = {"scalar": 5, "amx_emulated": 5, "emulated": 3}
"""Slow paths run a part of the inputs."""

CASES: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "bert-26": ("Bert", {"hidden_size": 312, "num_attention_heads": 12}, 26, 32),
    "bert-28-folded": ("Bert", {"hidden_size": 224, "num_attention_heads": 8}, 28, 32),
    "bert-4": ("Bert", {"hidden_size": 32, "num_attention_heads": 8}, 4, 8),
    "roberta-12": ("Roberta", {"hidden_size": 48, "num_attention_heads": 4}, 12, 16),
    "electra-10": ("Electra", {"hidden_size": 80, "num_attention_heads": 8}, 10, 16),
    "distilbert-26": ("DistilBert", {"dim": 104, "n_heads": 4}, 26, 32),
}
"""Class prefix, config, head_dim and padded_head_dim. 28: sizes at which the last layer has row_keys."""

_made: dict[str, tuple[Path, Reference]] = {}


def answers(tmp_path_factory: pytest.TempPathFactory, case: str) -> tuple[Path, Reference]:
    """Folder and transformers' answers, made once per session."""
    if case not in _made:
        name, config, _, _ = CASES[case]
        folder = make(tmp_path_factory.mktemp(case) / "model", name, HEAD, **config)
        _made[case] = folder, make_reference(folder, name + HEAD, all_inputs()[::2], MAX_LENGTH)
    return _made[case]


def sequences(expected: Reference) -> list[Sequence]:
    return [
        Sequence(ids, types if any(types) else None) for ids, types in zip(expected.ids, expected.types, strict=True)
    ]


@pytest.mark.parametrize("case", CASES)
def test_float32_logits_match_transformers(case: str, isa: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, expected = answers(tmp_path_factory, case)
    step = STRIDE.get(cpu_isas.kind(isa), 1)
    model = load(folder)
    shape = model.backbone.shape
    assert model.dtype == "float32"
    assert isinstance(shape, EncoderShape) and (shape.head_dim, shape.padded_head_dim) == CASES[case][2:]
    exact = expected.float32[::step]
    assert max_error(run(model, sequences(expected)[::step]), exact) <= float32_budget(exact)


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_logits_are_as_close_as_transformers_bfloat16(
    case: str, isa: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, expected = answers(tmp_path_factory, case)
    step = STRIDE.get(cpu_isas.kind(isa), 1)
    exact, theirs = expected.float32[::step], expected.bfloat16[::step]
    ours = run(load(folder, dtype="bfloat16"), sequences(expected)[::step])
    assert max_error(ours, exact) <= 1.1 * max_error(expected.bfloat16, expected.float32)
    assert mean_error(ours, exact) <= 1.1 * mean_error(theirs, exact)


@pytest.mark.parametrize("pooling", ["CLS", "MEAN"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", ["bert-26", "bert-28-folded", "electra-10"])
def test_results_are_bitwise_equal_in_any_batch(
    case: str, dtype: str, pooling: str, isa: str, restore_threads: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, expected = answers(tmp_path_factory, case)
    model = load(folder, dtype=dtype, config=PoolerConfig(pooling_type=pooling))
    inputs = sequences(expected)[::5]
    rng = random.Random(1)
    ops.set_num_threads(1)
    alone = [_logits(model, [sequence])[0] for sequence in inputs]
    for batch_idx in range({"avx2": 20}.get(isa, 4)):
        ops.set_num_threads(1 + batch_idx % 2)
        chosen = rng.sample(range(len(inputs)), rng.choice((2, 3, 7, 16)))
        for idx, result in zip(chosen, _logits(model, [inputs[idx] for idx in chosen]), strict=True):
            assert torch.equal(result, alone[idx]), f"input {idx} among {len(chosen)}, {ops.num_threads()} threads"


def _logits(model: Any, inputs: list[Sequence]) -> list[torch.Tensor]:
    return [result.clone() for result in model.run(pack(inputs, model.position_offset), [False] * len(inputs))]


@pytest.mark.parametrize("case", ["bert-26", "electra-10"])
def test_a_plan_counts_the_zeros(case: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, _ = answers(tmp_path_factory, case)
    files = resolve_model(folder)
    config = EngineConfig(max_batch_tokens=2048, max_batch_size=32)
    plan = plan_memory(
        files, HFConfig.from_folder(folder, None), PoolerConfig(), config=config, base=Base(0, 0), dtype="bfloat16"
    )
    model = load(folder, dtype="bfloat16")
    shape = model.backbone.shape
    assert isinstance(shape, EncoderShape)
    assert plan.weights["layers"] == backbone_bytes(model.backbone)["layers"]
    attention = 4 * shape.num_heads * shape.padded_head_dim * shape.hidden_size
    mlp = 2 * shape.intermediate_size * shape.hidden_size
    assert plan.weights["layers"] >= 2 * shape.num_layers * (attention + mlp)
    assert plan.arena_bytes == model.arena_size(model.max_batch_tokens, model.max_batch_size)


def test_zeros_stand_behind_each_head() -> None:
    weight = torch.arange(1.0, 25.0).view(6, 4)
    rows = pad_head_rows(weight, 3, 8)
    assert torch.equal(rows.view(2, 8, 4)[:, :3], weight.view(2, 3, 4)) and not rows.view(2, 8, 4)[:, 3:].any()
    bias = pad_head_rows(torch.tensor([1.0, 2.0, 3.0, 4.0]), 2, 3)
    assert bias.tolist() == [1.0, 2.0, 0.0, 3.0, 4.0, 0.0]
    columns = pad_head_columns(weight.T.contiguous(), 3, 8)
    assert torch.equal(columns, rows.T)
    assert pad_head_rows(weight, 8, 8) is weight and pad_head_columns(weight, 8, 8) is weight


def test_heads_wider_than_the_kernels_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, _ = answers(tmp_path_factory, "bert-4")
    with pytest.raises(UnsupportedModelError, match=r"head_dim 260 .* is not supported; sizes up to 256 are"):
        load(folder, hidden_size=260, num_attention_heads=1)
