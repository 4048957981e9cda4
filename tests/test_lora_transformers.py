"""Adapters of models that run through transformers' code: merged into it before it is taken apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import lora_adapters
import tiny_transformers
from assay import LLM, WeightsError
from lora_adapters import SEQUENCE, TOKEN
from tiny_models import randomize

CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("DebertaV2", SEQUENCE, {"target_modules": ["query_proj", "value_proj", "dense"]}),
    ("DebertaV2", TOKEN, {"target_modules": ["key_proj"]}),
    ("Albert", SEQUENCE, {"target_modules": ["query", "word_embeddings"]}),
    ("Phi3", SEQUENCE, {"target_modules": "all-linear", "use_rslora": True}),
    ("Jamba dense", SEQUENCE, {"target_modules": ["in_proj", "x_proj", "out_proj", "k_proj", "down_proj"]}),
    ("OPT", SEQUENCE, {"target_modules": ["fc1", "v_proj"], "alpha_pattern": {"layers.1.fc1": 3}}),
]


def make_model(name: str, head: str = SEQUENCE, num_labels: int = 3) -> Any:
    model_class = getattr(transformers, tiny_transformers.class_name(name, head))
    config = model_class.config_class(**tiny_transformers.PACKABLE[name], num_labels=num_labels)
    torch.manual_seed(0)
    model = model_class(config).eval()
    randomize(model, seed=5)
    return model


@pytest.mark.parametrize(("name", "head", "lora"), CASES, ids=lambda part: str(part)[:12])
def test_scores_are_those_of_peft(name: str, head: str, lora: dict[str, Any], tmp_path: Path) -> None:
    model = make_model(name, head)
    lora_adapters.save_model(model, tmp_path / "base")
    adapted = lora_adapters.save_adapter(model, tmp_path / "adapter", **lora)
    with lora_adapters.load(tmp_path / "base", dtype="float32") as llm:
        before = lora_adapters.results(llm)
        ours = lora_adapters.results(llm, lora_adapters.request(tmp_path / "adapter"))
        assert lora_adapters.are_close(ours, lora_adapters.exact_results(adapted))
        assert lora_adapters.are_equal(before, lora_adapters.results(llm))


def test_an_adapter_may_have_more_labels_over_another_class(tmp_path: Path) -> None:
    trained = make_model("DebertaV2", num_labels=5)
    base = transformers.DebertaV2ForMaskedLM(trained.config)
    base.base_model.load_state_dict(trained.base_model.state_dict())
    lora_adapters.save_model(base, tmp_path / "base")
    lora = {"target_modules": ["query_proj"], "modules_to_save": ["pooler", "classifier"]}
    adapted = lora_adapters.save_adapter(trained, tmp_path / "adapter", base=tmp_path / "base", **lora)
    with LLM(tmp_path / "adapter", skip_tokenizer_init=True, dtype="float32") as llm:
        assert len(llm.labels) == 5
        assert lora_adapters.are_close(lora_adapters.results(llm), lora_adapters.exact_results(adapted))


def test_a_module_the_class_does_not_have(tmp_path: Path) -> None:
    lora_adapters.save_model(make_model("OPT"), tmp_path / "base")
    lora_adapters.save_adapter(make_model("Phi3"), tmp_path / "adapter", target_modules=["qkv_proj"])
    with (
        lora_adapters.load(tmp_path / "base") as llm,
        pytest.raises(WeightsError, match="OPTForSequenceClassification has no such module"),
    ):
        lora_adapters.results(llm, lora_adapters.request(tmp_path / "adapter"))
