"""An adapter's folder given as the model: its base is found, and the class, the head and the labels are its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lora_adapters
from assay import LLM, ConfigError
from lora_adapters import BACKBONE, SEQUENCE, TOKEN

LANGUAGE_MODELS = {"Qwen2": "ForCausalLM", "Roberta": "ForMaskedLM", "Bert": BACKBONE}


def save(folder: Path, name: str, ending: str, head: str = SEQUENCE, num_labels: int = 5) -> Any:
    """A base whose files are of another class, and an adapter of it; returns PEFT's model."""
    trained = lora_adapters.make_model(name, head, num_labels=num_labels)
    base = lora_adapters.make_model(name, BACKBONE)
    if ending != BACKBONE:
        import transformers

        base = getattr(transformers, f"{name}{ending}")(base.config)
        base.base_model.load_state_dict(trained.base_model.state_dict(), strict=False)
    lora_adapters.save_model(base, folder / "base")
    return lora_adapters.save_adapter(trained, folder / "adapter", base=folder / "base")


@pytest.mark.parametrize("head", [SEQUENCE, TOKEN])
@pytest.mark.parametrize(("name", "ending"), LANGUAGE_MODELS.items())
def test_the_class_is_the_one_that_was_trained(name: str, ending: str, head: str, tmp_path: Path) -> None:
    adapted = save(tmp_path, name, ending, head)
    exact = lora_adapters.exact_results(adapted)
    with LLM(tmp_path / "adapter", skip_tokenizer_init=True) as llm:
        assert llm.pooling_task == ("classify" if head == SEQUENCE else "token_classify")
        assert llm.labels == [f"LABEL_{index}" for index in range(5)]
        assert lora_adapters.are_close(lora_adapters.results(llm), exact)


def test_it_scores_as_the_base_with_the_adapter(tmp_path: Path) -> None:
    model = lora_adapters.make_model("Bert")
    lora_adapters.save_model(model, tmp_path / "base")
    lora_adapters.save_adapter(model, tmp_path / "adapter", base=tmp_path / "base")
    with LLM(tmp_path / "adapter", skip_tokenizer_init=True) as llm, lora_adapters.load(tmp_path / "base") as base:
        request = lora_adapters.request(tmp_path / "adapter")
        assert lora_adapters.are_equal(lora_adapters.results(llm), lora_adapters.results(base, request))


def test_overrides_come_last(tmp_path: Path) -> None:
    save(tmp_path, "Bert", BACKBONE, num_labels=2)
    names = {0: "fine", 1: "toxic"}
    with LLM(tmp_path / "adapter", skip_tokenizer_init=True, hf_overrides={"id2label": names}) as llm:
        assert llm.labels == ["fine", "toxic"]


def test_it_takes_no_adapters_itself(tmp_path: Path) -> None:
    save(tmp_path, "Bert", BACKBONE)
    with pytest.raises(ConfigError, match=r"is an adapter itself: with enable_lora=True name its base model"):
        LLM(tmp_path / "adapter", skip_tokenizer_init=True, enable_lora=True)
