from __future__ import annotations

import gc
import json
import logging
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import llms
import tiny_models
from assay import (
    LLM,
    ConfigError,
    EngineDeadError,
    NonFiniteError,
    PoolerConfig,
    PoolingParams,
    SelfCheckError,
    ValidationError,
    WeightsError,
)

OFF = PoolingParams(use_activation=False)
TEXT = "the lazy dog and the battery"


def raw(llm: LLM, text: str = TEXT) -> torch.Tensor:
    return torch.tensor(llm.classify(text, pooling_params=OFF)[0].outputs.probs)


def scored(llm: LLM, text: str = TEXT) -> torch.Tensor:
    return torch.tensor(llm.classify(text)[0].outputs.probs)


def changed(tmp_path: Path, edit: Any) -> Path:
    """A copy of the three-label classifier whose tensors `edit` has changed."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(llms.folder(), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


# ---- what an LLM says of itself ------------------------------------------------------------------------------------


def test_attributes() -> None:
    llm = llms.shared()
    assert llm.supported_tasks == ("classify", "token_classify")
    assert llm.pooling_task == "classify"
    assert llm.labels == list(llms.LABELS.values())
    config = llm.llm_engine.model_config
    assert config is llm.llm_engine.vllm_config.model_config
    assert config.hf_config.num_labels == 3
    assert config.hf_config.id2label == llms.LABELS
    assert config.architectures == ["BertForSequenceClassification"]
    assert (config.max_model_len, config.dtype, config.attn_type) == (128, "float32", "encoder_only")
    assert not config.is_prefix_caching_supported and not config.is_chunked_prefill_supported


def test_the_start_line_says_what_runs(caplog: pytest.LogCaptureFixture) -> None:
    from assay import ops

    with caplog.at_level(logging.INFO, "assay"), llms.load(dtype="bfloat16") as llm:
        assert llm.summary in caplog.text
    threads = ops.num_threads()
    for words in (
        ops.active_isa(),
        f"{threads} thread",
        "dtype bfloat16 (as asked)",
        "arithmetic ",
        "up to 128 tokens",
    ):
        assert words in llm.summary
    assert "dtype float32 (the checkpoint is float32)" in llms.shared().summary


def test_the_tokenizer_handed_out_is_a_copy() -> None:
    with llms.load() as llm:
        before = llm.classify("the " * 60)[0]
        tokenizer = llm.get_tokenizer()
        assert tokenizer is llm.get_tokenizer()
        tokenizer("the " * 60, truncation=True, max_length=4, padding="max_length")
        after = llm.classify("the " * 60)[0]
        assert after.prompt_token_ids == before.prompt_token_ids
        assert after.outputs == before.outputs


def test_from_engine_args() -> None:
    class Args:
        def __init__(self) -> None:
            self.model, self.max_model_len, self.runner = str(llms.folder()), 64, "pooling"

    for args in (Args(), vars(Args())):
        with LLM.from_engine_args(args) as llm:
            assert llm.llm_engine.model_config.max_model_len == 64


# ---- settings ------------------------------------------------------------------------------------------------------


def test_max_model_len() -> None:
    with llms.load(max_model_len=16) as llm:
        with pytest.raises(ValidationError, match="maximum context length is 16 tokens"):
            llm.classify("word " * 20)
        with pytest.raises(
            ValidationError, match="truncate_prompt_tokens=17 cannot be greater than max_model_len = 16"
        ):
            llm.classify("a", truncate_prompt_tokens=17)
        assert len(llm.classify([[5] * 16])[0].prompt_token_ids) == 16


def test_max_model_len_above_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as caught:
        llms.load(max_model_len=129)
    assert str(caught.value).startswith(
        "User-specified max_model_len (129) is greater than the derived max_model_len (max_position_embeddings=128 in "
        "model's config.json). To allow overriding this maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1."
    )
    folder = shutil.copytree(llms.folder(), tmp_path / "model")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20, "do_lower_case": False}))
    with pytest.raises(ConfigError, match=r"max_seq_length=20"):
        LLM(folder, max_model_len=100)
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    with LLM(folder, max_model_len=100) as llm:
        assert llms.close(raw(llm, "the " * 90), llms.logits("the " * 90))
    with pytest.raises(ConfigError, match="128 positions only"):
        LLM(folder, max_model_len=129)


def test_small_budgets_change_no_score() -> None:
    texts = [text for text in tiny_models.single_texts() if text != "x" * 300]
    expected = [out.outputs.probs for out in llms.shared().classify(texts, truncate_prompt_tokens=-1)]
    budgets: list[dict[str, Any]] = [
        {"max_num_batched_tokens": 1},
        {"max_num_seqs": 3},
        {"max_batch_tokens": 200, "max_batch_size": 9},
    ]
    for settings in budgets:
        with llms.load(**settings) as llm:
            outputs = llm.classify(texts, truncate_prompt_tokens=-1)
            assert [out.outputs.probs for out in outputs] == expected


def test_skip_tokenizer_init() -> None:
    with llms.load(skip_tokenizer_init=True) as llm:
        ids = llms.reference()[1](TEXT)["input_ids"]
        assert llm.classify([ids])[0].outputs == llms.shared().classify(TEXT)[0].outputs
        with pytest.raises(ValidationError, match="You cannot pass text prompts"):
            llm.classify(TEXT)
        with pytest.raises(ValidationError, match="skip_tokenizer_init=True"):
            llm.get_tokenizer()


def test_a_tokenizer_from_elsewhere() -> None:
    with llms.load(tokenizer=str(llms.folder())) as llm:
        assert llm.classify(TEXT)[0].outputs == llms.shared().classify(TEXT)[0].outputs


def test_conversions_need_their_head() -> None:
    with llms.load(convert="classify", runner="pooling") as llm:
        assert llm.pooling_task == "classify"
    with pytest.raises(ConfigError, match=r"convert='embed': BertForSequenceClassification has no such head"):
        llms.load(convert="embed")
    with pytest.raises(WeightsError, match=r"missing tensors .*classifier\.weight"):
        llms.load(llms.MODEL, convert="classify")


def test_an_unsupported_task_is_a_runtime_error() -> None:
    with pytest.raises(
        RuntimeError, match=r"Unsupported task: 'embed' Supported tasks: \('classify', 'token_classify'\)"
    ):
        llms.load(pooler_config=PoolerConfig(task="embed"))


# ---- problem type, calibration, activation -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"hf_overrides": {"problem_type": "regression"}}, lambda x: x),
        ({"hf_overrides": {"problem_type": "multi_label_classification"}}, torch.sigmoid),
        ({"hf_overrides": {"problem_type": "single_label_classification"}}, lambda x: x.softmax(-1)),
        ({"hf_overrides": {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}}, lambda x: x),
        (
            {"hf_overrides": {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}},
            lambda x: x.softmax(-1),
        ),
        (
            {"hf_overrides": {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}}},
            torch.tanh,
        ),
        ({"pooler_config": {"activation": "sigmoid"}}, torch.sigmoid),
        ({"pooler_config": PoolerConfig(activation="identity")}, lambda x: x),
        ({"pooler_config": PoolerConfig(use_activation=False)}, lambda x: x),
        ({"pooler_config": PoolerConfig(logit_mean=2.0, logit_sigma=0.5)}, lambda x: ((x - 2.0) / 0.5).softmax(-1)),
        ({"override_pooler_config": {"logit_bias": 2.0}}, lambda x: (x - 2.0).softmax(-1)),
    ],
)
def test_what_becomes_of_the_logits(settings: dict[str, Any], expected: Any) -> None:
    with llms.load(**settings) as llm:
        assert llms.close(scored(llm), expected(llms.logits(TEXT)))


def test_calibration_applies_without_the_activation_too() -> None:
    with llms.load(pooler_config=PoolerConfig(logit_bias=2.0, logit_scale=2.0)) as llm:
        assert llms.close(raw(llm), (llms.logits(TEXT) - 2.0) * 2.0)


def test_a_request_overrides_the_configured_activation() -> None:
    with llms.load(pooler_config=PoolerConfig(use_activation=False)) as llm:
        (output,) = llm.classify(TEXT, pooling_params=PoolingParams(use_activation=True))
        assert llms.close(output.outputs.probs, llms.logits(TEXT).softmax(-1))


def test_activation_outside_torch_is_refused() -> None:
    message = "Loading of activation functions is restricted to torch.nn.modules for security reasons"
    with pytest.raises(ValueError, match=f"^{message}$"):
        llms.load(hf_overrides={"sbert_ce_default_activation_function": "os.system"})


def test_head_dtype(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "assay"):
        for name in ("float32", "model"):
            with llms.load(hf_overrides={"head_dtype": name}) as llm:
                assert llm.llm_engine.model_config.hf_config.head_dtype == name
                assert scored(llm).equal(scored(llms.shared()))
    assert caplog.text.count("the head always runs in float32") == 1
    with pytest.raises(ValueError, match=r"^Unknown dtype: 'float31'$"):
        llms.load(hf_overrides={"head_dtype": "float31"})


def test_overrides_may_be_a_callable() -> None:
    def edit(config: Any) -> Any:
        config.update({"id2label": {0: "x", 1: "y", 2: "z"}})
        return config

    with llms.load(hf_overrides=edit) as llm:
        assert llm.labels == ["x", "y", "z"]
        assert llm.classify(TEXT)[0].outputs.label == "xyz"[int(llms.logits(TEXT).argmax())]


def test_mean_pooling_can_be_chosen() -> None:
    with llms.load(pooler_config=PoolerConfig(pooling_type="MEAN")) as llm:
        assert not llms.close(raw(llm), llms.logits(TEXT))
    with llms.load(llms.MODEL, pooler_config=PoolerConfig(seq_pooling_type="MEAN")) as llm:
        model, tokenizer = llms.reference(llms.MODEL)
        with torch.no_grad():
            states = model(**tokenizer(TEXT, return_tensors="pt")).last_hidden_state[0]
        (output,) = llm.embed(TEXT, pooling_params=OFF)
        assert llms.close(output.outputs.embedding, states.mean(0))


# ---- the self-check ------------------------------------------------------------------------------------------------


def test_a_model_of_zeros_does_not_start(tmp_path: Path) -> None:
    def zero(tensors: dict[str, torch.Tensor]) -> None:
        tensors["classifier.weight"].zero_()

    folder = changed(tmp_path, zero)
    before = threading.active_count()
    with pytest.raises(SelfCheckError, match="two different inputs gave exactly the same logits"):
        LLM(folder)
    assert threading.active_count() <= before
    with LLM(folder, self_check=False) as llm:
        assert len(set(map(tuple, (raw(llm).tolist(), raw(llm, "other").tolist())))) == 1


def test_a_model_of_nan_does_not_start(tmp_path: Path) -> None:
    def poison(tensors: dict[str, torch.Tensor]) -> None:
        tensors["classifier.bias"][1] = float("nan")

    with pytest.raises(SelfCheckError, match="contain NaN or infinity"):
        LLM(changed(tmp_path, poison))


def test_saturated_scores_are_no_reason_to_stop(tmp_path: Path) -> None:
    def saturate(tensors: dict[str, torch.Tensor]) -> None:
        tensors["classifier.bias"].fill_(100.0)

    with LLM(changed(tmp_path, saturate), pooler_config=PoolerConfig(activation="sigmoid")) as llm:
        assert scored(llm).tolist() == [1.0, 1.0, 1.0]


# ---- NaN for one input ---------------------------------------------------------------------------------------------


@pytest.fixture
def poisoned(tmp_path: Path) -> tuple[Path, int]:
    """A model in which one word makes NaN, and that word's id."""
    word = int(llms.reference()[1]("dog", add_special_tokens=False)["input_ids"][0])

    def poison(tensors: dict[str, torch.Tensor]) -> None:
        tensors["bert.embeddings.word_embeddings.weight"][word] = float("nan")

    return changed(tmp_path, poison), word


def test_nan_raises_and_names_the_prompt(poisoned: tuple[Path, int]) -> None:
    folder, word = poisoned
    with LLM(folder) as llm:
        with pytest.raises(NonFiniteError, match=r"^the result for prompts\[7\] contains NaN or infinity$") as caught:
            llm.classify([[5, 6]] * 7 + [[5, word]] + [[5, 6]] * 50)
        assert isinstance(caught.value, ValueError)
        assert len(llm.classify([[5, 6]])) == 1


def test_nan_may_be_returned_instead(poisoned: tuple[Path, int]) -> None:
    folder, word = poisoned
    with LLM(folder, non_finite="return") as llm:
        good, bad, also = llm.classify([[5, 6], [5, word], [5, 6]])
        assert bad.outputs.probs == [] and bad.prompt_token_ids == [5, word]
        assert bad.error is not None
        assert (bad.error.code, bad.error.message) == (500, "the result for prompts[1] contains NaN or infinity")
        assert good.error is None and good.outputs == also.outputs == llm.classify([[5, 6]])[0].outputs


# ---- the end -------------------------------------------------------------------------------------------------------


def test_close_and_with() -> None:
    with llms.load() as llm:
        llm.classify("a")
    for prompts in ("a", ["a"] * 100):
        with pytest.raises(EngineDeadError, match="the engine is closed"):
            llm.classify(prompts)
    llm.close()


def test_a_forgotten_llm_stops_its_threads() -> None:
    before = set(threading.enumerate())
    llm = llms.load()
    llm.classify(["a"] * 50)
    own = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("assay-")]
    assert own
    del llm
    gc.collect()
    for thread in own:
        thread.join(5)
    assert not any(thread.is_alive() for thread in own)
