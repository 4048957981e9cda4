from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from assay.convert import HeadPlan, lm_head_rows, plan_head
from assay.errors import ConfigError, UnsupportedModelError, WeightsError
from assay.hf_config import HFConfig
from assay.vocabulary import Vocabulary
from assay.weights import WeightMap

IDS = {"no": 3, "yes": 7, "0": 1, "1": 2, "Yes": 5}
QWEN3 = "Qwen3ForSequenceClassification"


def ids_of(tokens: Any) -> list[int]:
    for token in tokens:
        if token not in IDS:
            raise ConfigError(f"{token!r} is not one token of the tokenizer")
    return [IDS[token] for token in tokens]


def plan(architecture: str = QWEN3, **keys: Any) -> HeadPlan:
    return plan_head(HFConfig(keys), architecture, ids_of)


# ---- which head ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"num_labels": 5}, HeadPlan("score", None, (), 5)),
        ({"classifier_from_token": ["0", "1"]}, HeadPlan("score", None, (), 2)),
        (
            {"classifier_from_token": ["0", "1"], "method": "from_2_way_softmax"},
            HeadPlan("lm_head", "from_2_way_softmax", (1, 2), 1),
        ),
        (
            {"classifier_from_token": ["Yes"], "method": "no_post_processing"},
            HeadPlan("lm_head", "no_post_processing", (5,), 1),
        ),
        (
            {"classifier_from_token": ["Yes", "yes", "no"], "method": "no_post_processing", "num_labels": 9},
            HeadPlan("lm_head", "no_post_processing", (5, 7, 3), 3),
        ),
        (
            {"classifier_from_token": ["no", "yes"], "is_original_qwen3_reranker": True},
            HeadPlan("lm_head", "from_2_way_softmax", (3, 7), 1),
        ),
    ],
)
def test_plan_head_reads_the_override_keys(keys: dict[str, Any], expected: HeadPlan) -> None:
    assert plan(**keys) == expected


@pytest.mark.parametrize(
    ("architecture", "keys", "message"),
    [
        (QWEN3, {"method": "softmax", "classifier_from_token": ["no"]}, "method 'softmax' not supported"),
        (QWEN3, {"method": "from_2_way_softmax"}, "needs classifier_from_token"),
        (QWEN3, {"method": "from_2_way_softmax", "classifier_from_token": ["no"]}, "takes 2 tokens"),
        (QWEN3, {"method": "no_post_processing", "classifier_from_token": []}, "needs classifier_from_token"),
        (QWEN3, {"method": "no_post_processing", "classifier_from_token": "Yes"}, "must be a list of tokens"),
        (QWEN3, {"method": "no_post_processing", "classifier_from_token": [7]}, "must be a list of tokens"),
        (
            QWEN3,
            {"method": "no_post_processing", "classifier_from_token": ["maybe"]},
            "classifier_from_token: 'maybe' is not one token",
        ),
        (QWEN3, {"is_original_qwen3_reranker": True}, "exactly 2 entries"),
        (
            QWEN3,
            {
                "is_original_qwen3_reranker": True,
                "classifier_from_token": ["no", "yes"],
                "method": "no_post_processing",
            },
            "means method 'from_2_way_softmax'",
        ),
        (
            "Qwen2ForSequenceClassification",
            {"is_original_qwen3_reranker": True, "classifier_from_token": ["no", "yes"]},
            "is for Qwen3ForSequenceClassification and Qwen3VLForSequenceClassification",
        ),
    ],
)
def test_plan_head_refuses_contradictions(architecture: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(architecture, **keys)
    assert message in str(caught.value)


@pytest.mark.parametrize("keys", [{"final_logit_softcapping": 30.0}, {"model_type": "gemma2"}])
def test_logits_that_transformers_caps_are_refused(keys: dict[str, Any]) -> None:
    row = {"classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax"}
    with pytest.raises(UnsupportedModelError, match=r"final_logit_softcapping=30\.0 bends the logits"):
        plan(**row, **keys)
    assert plan(**row, **keys | {"final_logit_softcapping": None}).num_labels == 1
    assert plan(**keys).source == "score"


def test_the_applied_config_has_the_heads_labels_and_joins_pairs() -> None:
    config = HFConfig({"id2label": {0: "a", 1: "b"}})
    changed = HeadPlan("lm_head", "from_2_way_softmax", (3, 7), 1).applied(config)
    assert (changed.num_labels, changed.use_sep_token) == (1, False)
    assert config.num_labels == 2 and "use_sep_token" not in config
    kept = HeadPlan("lm_head", "no_post_processing", (3, 7), 2).applied(HFConfig({"use_sep_token": True}))
    assert kept.use_sep_token is True
    assert HeadPlan("score", None, (), 2).applied(config) is config


# ---- the rows ------------------------------------------------------------------------------------------------------


def checkpoint(folder: Path, tensors: dict[str, torch.Tensor], kind: str = "safetensors") -> WeightMap:
    if kind == "safetensors":
        save_file(tensors, folder / "model.safetensors")
        return WeightMap([folder / "model.safetensors"])
    torch.save(tensors, folder / "pytorch_model.bin")
    return WeightMap([folder / "pytorch_model.bin"])


NAMES = ("lm_head.weight", "model.embed_tokens.weight")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tied", [False, True])
def test_rows_are_those_of_the_head_in_float32(tmp_path: Path, kind: str, dtype: torch.dtype, tied: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    table = torch.randn(11, 6, generator=generator).to(dtype)
    head = table if tied else torch.randn(11, 6, generator=generator).to(dtype)
    tensors = {"model.embed_tokens.weight": table} if tied else {NAMES[0]: head, NAMES[1]: table}
    weights = checkpoint(tmp_path, tensors, kind)
    weight, bias = lm_head_rows(weights, NAMES, HeadPlan("lm_head", "from_2_way_softmax", (3, 7), 1))
    assert weight.dtype == torch.float32 and bias is None
    assert torch.equal(weight, (head[7].float() - head[3].float()).unsqueeze(0))
    weight, _ = lm_head_rows(weights, NAMES, HeadPlan("lm_head", "no_post_processing", (7, 0, 7), 3))
    assert torch.equal(weight, head[[7, 0, 7]].float())
    if tied:
        weights.finish()


def test_a_bias_of_the_head_counts(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path, {"lm_head.weight": torch.eye(4), "lm_head.bias": torch.tensor([1.0, 2.0, 4.0, 8.0])})
    _, bias = lm_head_rows(weights, NAMES, HeadPlan("lm_head", "from_2_way_softmax", (0, 3), 1))
    assert bias is not None and bias.tolist() == [7.0]
    weights.finish()


def test_missing_heads_and_rows_are_named(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path, {"model.norm.weight": torch.ones(4), "lm_head.weight": torch.eye(4)})
    plan = HeadPlan("lm_head", "from_2_way_softmax", (0, 4), 1)
    with pytest.raises(WeightsError, match=r"lm_head.weight has 4 rows, none is number 4"):
        lm_head_rows(weights, NAMES, plan)
    with pytest.raises(WeightsError, match=r"none of model.embed_tokens.weight is in the checkpoint"):
        lm_head_rows(weights, NAMES[1:], plan)


# ---- token ids from files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [{"vocab": {"no": 0, "Yes": 1}}, {"vocab": [["no", -1.0], ["Yes", -2.0]]}],
    ids=["map", "unigram"],
)
def test_vocabulary_reads_tokenizer_json(tmp_path: Path, model: dict[str, Any]) -> None:
    added = [{"content": "<|im_end|>", "id": 2}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": added}))
    vocabulary = Vocabulary(tmp_path)
    assert vocabulary.ids(["Yes", "<|im_end|>", "no"]) == [1, 2, 0]
    assert len(vocabulary) == 3 and "yes" not in vocabulary
    assert vocabulary.has_all(["no", "Yes"]) and not vocabulary.has_all(["no", "yes"])
    assert (vocabulary.token(2), vocabulary.token(3)) == ("<|im_end|>", None)
    with pytest.raises(ConfigError, match=r"'yes' is not one token of the tokenizer"):
        vocabulary.ids(["yes"])


def test_vocabulary_reads_the_files_of_a_slow_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"no": 0, "yes": 1}))
    settings = {"added_tokens_decoder": {"2": {"content": "<think>"}}, "eos_token": {"content": "<|im_end|>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    vocabulary = Vocabulary(tmp_path)
    assert vocabulary.ids(["yes", "<think>"]) == [1, 2]
    assert (vocabulary.eos_token, vocabulary.chat_template) == ("<|im_end|>", None)


def test_vocabulary_finds_the_chat_template(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert Vocabulary(tmp_path).chat_template == "d"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert Vocabulary(tmp_path).chat_template == "file"


def test_a_folder_without_tokenizer_files_has_no_tokens(tmp_path: Path) -> None:
    assert len(Vocabulary(tmp_path)) == 0
    assert not Vocabulary(tmp_path).has_all(["no"])
