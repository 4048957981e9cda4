from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from assay import LLM, ConfigError, PoolerConfig, PoolingParams, ValidationError
from assay.hf_config import HFConfig
from assay.llm.adapters import AdapterLimits, lora_requests
from assay.llm.arguments import NO_EFFECT, check_keywords, dtype_name, engine_config_from, pooler_config_from
from assay.llm.calls import check_task, params_per_prompt, progress
from assay.lora.request import LoRARequest
from assay.scoring import ScoreText, check_kind, check_pairing, score_limits, score_texts, uses_separator

TASK_REQUIRED = """pooling_task required for `LLM.encode`.
Please use one of the more specific methods or set the pooling_task when using `LLM.encode`:
  - For embeddings, use `LLM.embed(...)` or `pooling_task="embed"`.
  - For classification logits, use `LLM.classify(...)` or `pooling_task="classify"`.
  - For similarity scores, use `LLM.score(...)`.
  - For rewards, `pooling_task="classify"` or `pooling_task="token_classify"`.
  - For token classification, use `pooling_task="token_classify"`.
  - For multi-vector retrieval, use `pooling_task="token_embed"`."""

# ---- keywords of LLM(...) ------------------------------------------------------------------------------------------


def test_tuning_keywords_are_accepted() -> None:
    check_keywords(dict.fromkeys(NO_EFFECT, 1))
    check_keywords({"tensor_parallel_size": 1, "quantization": None, "lora_dtype": "auto"})


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ({"quantization": "awq"}, "quantization='awq' is not supported: use None"),
        ({"tensor_parallel_size": 2}, "tensor_parallel_size=2 is not supported: use 1"),
        ({"pipeline_parallel_size": 2}, "pipeline_parallel_size=2 is not supported: use 1"),
        ({"data_parallel_size": 4}, "data_parallel_size=4 is not supported: use 1"),
        ({"load_format": "dummy"}, "load_format='dummy' is not supported"),
        ({"tokenizer_mode": "mistral"}, "tokenizer_mode='mistral' is not supported"),
        ({"convert": "reward"}, "convert='reward' is not supported: use 'auto' or 'none' or 'embed' or 'classify'"),
        ({"runner": "draft"}, "runner='draft' is not supported: use 'auto' or 'pooling'"),
        (
            {"runner": "generate"},
            "Embedding models do not support `--runner generate`. "
            "Use `--runner pooling` or `--runner auto` for embedding models.",
        ),
    ],
)
def test_keywords_that_would_change_results_are_refused(keyword: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_keywords(keyword)
    assert str(caught.value).startswith(message)
    with pytest.raises(ConfigError, match=message.split(":")[0].split(".")[0]):
        LLM("no-such-folder/anywhere", **keyword)


def test_unknown_keywords_are_type_errors_with_a_suggestion() -> None:
    with pytest.raises(
        TypeError, match=r"unexpected keyword argument 'max_model_length': did you mean 'max_model_len'\?"
    ):
        LLM("no-such-folder/anywhere", max_model_length=5)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'zzz'$"):
        check_keywords({"zzz": 1})


@pytest.mark.parametrize("name", ["trust_remote_code", "enable_prefix_caching", "enable_chunked_prefill"])
def test_switches_without_effect_say_so(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "assay"):
        check_keywords({name: False})
        assert caplog.text == ""
        check_keywords({name: True})
    assert f"{name}=True has no effect" in caplog.text


def test_budgets_have_two_names() -> None:
    config = engine_config_from(None, 2048, None, 32, 2)
    assert (config.max_batch_tokens, config.max_batch_size, config.num_threads) == (2048, 32, 2)
    assert engine_config_from(2048, 2048, None, None, None).max_batch_tokens == 2048
    with pytest.raises(ConfigError, match="max_batch_tokens=1 and max_num_batched_tokens=2 contradict each other"):
        engine_config_from(1, 2, None, None, None)


@pytest.mark.parametrize(("dtype", "name"), [("float", "float32"), (torch.bfloat16, "bfloat16"), ("auto", "auto")])
def test_dtype_names(dtype: Any, name: str) -> None:
    assert dtype_name(dtype) == dtype_name(dtype, "cuda") == name


@pytest.mark.parametrize("dtype", ["half", "float16", torch.float16])
def test_float16_is_for_gpus(dtype: Any) -> None:
    assert dtype_name(dtype, "cuda") == "float16"
    with pytest.raises(ConfigError, match="is not supported on CUDA: use 'auto', 'float32', 'float16' or 'bfloat16'"):
        dtype_name("int8", "cuda")


@pytest.mark.parametrize("dtype", ["half", "float16", torch.float16, "int8", None])
def test_other_dtypes_are_refused(dtype: Any) -> None:
    with pytest.raises(ConfigError, match="use 'auto', 'float32' or 'bfloat16'"):
        dtype_name(dtype)


def test_pooler_config_may_be_a_dict() -> None:
    assert pooler_config_from({"logit_bias": 2.0}) == PoolerConfig(logit_mean=2.0)
    assert pooler_config_from(None) == PoolerConfig()
    with pytest.raises(ConfigError, match="pooler_config must be a PoolerConfig or a dict, got str"):
        pooler_config_from("CLS")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "keywords",
    [
        {"pooler_config": PoolerConfig(), "override_pooler_config": PoolerConfig()},
        {"non_finite": "ignore"},
        {"max_model_len": 0},
        {"max_model_len": True},
        {"num_threads": 0},
        {"dtype": "half"},
    ],
)
def test_wrong_settings_are_refused_before_anything_is_loaded(keywords: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        LLM("no-such-folder/anywhere", **keywords)
    assert "no-such-folder" not in str(caught.value)


# ---- the task of a call --------------------------------------------------------------------------------------------

SUPPORTED = ("classify", "token_classify")


def test_active_task_passes() -> None:
    assert check_task("classify", SUPPORTED, "classify") == "classify"


def test_missing_task() -> None:
    with pytest.raises(ValueError) as caught:
        check_task(None, SUPPORTED, "classify")
    text = str(caught.value)
    assert text[0].isspace()
    lines = [line.removeprefix(" " * 16) for line in text.strip("\n").rstrip().splitlines()]
    assert lines == TASK_REQUIRED.splitlines()


@pytest.mark.parametrize(
    ("task", "supported", "message"),
    [
        (
            "embed",
            SUPPORTED,
            "Embedding API is not supported by this model. Try converting the model using `--convert embed`.",
        ),
        (
            "token_embed",
            SUPPORTED,
            "Embedding API is not supported by this model. Try converting the model using `--convert embed`.",
        ),
        (
            "classify",
            ("embed", "token_embed"),
            "Classification API is not supported by this model. Try converting the model using `--convert classify`.",
        ),
        (
            "token_classify",
            ("embed",),
            "Classification API is not supported by this model. Try converting the model using `--convert classify`.",
        ),
        (
            "token_classify",
            SUPPORTED,
            'Try switching the model\'s pooling_task via `PoolerConfig(task="token_classify")`',
        ),
        ("generate", SUPPORTED, "Unsupported task: 'generate' Supported tasks: ('classify', 'token_classify')"),
        (
            "plugin",
            SUPPORTED,
            "No IOProcessor plugin installed. Please refer to the documentation and to the "
            "'prithvi_geospatial_mae_io_processor' offline inference example for more details.",
        ),
        ("score", SUPPORTED, "`score` task was removed; use `classify` instead. (parameter=task)"),
        (
            "encode",
            SUPPORTED,
            "`encode` task was removed; use `token_embed` or `token_classify` instead. (parameter=task)",
        ),
    ],
)
def test_other_tasks(task: str, supported: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_task(task, supported, supported[0])
    assert str(caught.value) == message


# ---- PoolingParams, adapters, progress -----------------------------------------------------------------------------

CONFIG = HFConfig({})


def test_one_or_no_params_apply_to_all() -> None:
    for given in (None, PoolingParams()):
        params = params_per_prompt(given, 3, "classify", PoolerConfig(use_activation=False), CONFIG)
        assert [each.use_activation for each in params] == [False] * 3
        assert all(each.task == "classify" for each in params)


def test_a_list_of_params_pairs_with_the_prompts() -> None:
    given = [PoolingParams(use_activation=False), None, PoolingParams(task="classify")]
    params = params_per_prompt(given, 3, "classify", PoolerConfig(), CONFIG)
    assert [each.use_activation for each in params] == [False, True, True]
    assert given[0] == PoolingParams(use_activation=False)
    with pytest.raises(ValidationError, match=r"^The lengths of prompts \(2\) and params \(3\) must be the same\.$"):
        params_per_prompt(given, 2, "classify", PoolerConfig(), CONFIG)


def test_a_conflicting_task_is_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        params_per_prompt(PoolingParams(task="classify"), 1, "embed", PoolerConfig(), CONFIG)
    assert str(caught.value) == "You cannot overwrite param.task='classify' with pooling_task='embed'!"
    with pytest.raises(ValidationError, match="pooling_params must be PoolingParams or a list of them, got dict"):
        params_per_prompt({"use_activation": True}, 1, "embed", PoolerConfig(), CONFIG)


def test_dimensions_need_a_matryoshka_model() -> None:
    params = PoolingParams(dimensions=8)
    with pytest.raises(ValidationError, match="does not support matryoshka"):
        params_per_prompt(params, 1, "embed", PoolerConfig(), CONFIG)
    trained = HFConfig({"matryoshka_dimensions": [8, 16]})
    assert params_per_prompt(params, 1, "embed", PoolerConfig(), trained)[0].dimensions == 8
    with pytest.raises(ValidationError, match=r"dimensions must be one of \[8, 16\], got 9"):
        params_per_prompt(PoolingParams(dimensions=9), 1, "embed", PoolerConfig(), trained)


def test_lora_requests_are_one_per_prompt() -> None:
    request = LoRARequest("a", 1, "/adapters/a")
    assert lora_requests(None, 2, is_enabled=False) == [None, None]
    assert lora_requests([None, None], 2, is_enabled=False) == [None, None]
    assert lora_requests(request, 2, is_enabled=True) == [request, request]
    assert lora_requests((None, request), 2, is_enabled=True) == [None, request]
    with pytest.raises(
        ValidationError, match=r"^The lengths of prompts \(2\) and lora_request \(1\) must be the same\.$"
    ):
        lora_requests([None], 2, is_enabled=True)
    with pytest.raises(ValidationError, match=r"^Got lora_request LoRARequest\(lora_name='a'.* LoRA is not enabled!$"):
        lora_requests([None, request], 2, is_enabled=False)
    with pytest.raises(ValidationError, match=r"^lora_request must be a LoRARequest, got str$"):
        lora_requests("a", 1, is_enabled=True)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_lora_rank": 0}, "max_lora_rank must be a positive integer, got 0"),
        ({"max_loras": True}, "max_loras must be a positive integer, got True"),
        ({"max_cpu_loras": -1}, "max_cpu_loras must be a positive integer, got -1"),
        ({"max_lora_cls_labels": 1.5}, "max_lora_cls_labels must be a positive integer, got 1.5"),
        ({"max_loras": 3, "max_cpu_loras": 2}, r"max_cpu_loras \(2\) must be >= max_loras \(3\)"),
    ],
)
def test_wrong_adapter_limits(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AdapterLimits(**limits)


def test_adapter_limits_are_the_larger_one() -> None:
    assert [AdapterLimits().max_loaded, AdapterLimits(max_loras=2).max_loaded] == [1, 2]
    assert AdapterLimits(max_loras=2, max_cpu_loras=5).max_loaded == 5


def test_lora_requests_are_equal_by_name() -> None:
    request = LoRARequest("a", 1, "/adapters/a")
    assert request == LoRARequest("a", 2, "/elsewhere", base_model_name="b")
    assert len({request, LoRARequest("a", 2, "/elsewhere"), LoRARequest("b", 1, "/adapters/a")}) == 2
    assert (request.name, request.adapter_id, request.path) == ("a", 1, "/adapters/a")
    with pytest.raises(ValueError, match=r"^id must be > 0, got 0$"):
        LoRARequest("a", 0, "/adapters/a")
    with pytest.raises(ValueError, match=r"^lora_path cannot be empty$"):
        LoRARequest("a", 1, "")


class Bar:
    def __init__(self, **kwargs: Any) -> None:
        self.kwargs, self.count, self.is_closed = kwargs, 0, False

    def update(self, count: int) -> None:
        self.count += count

    def close(self) -> None:
        self.is_closed = True


def test_progress_calls_the_factory_like_tqdm() -> None:
    made: list[Bar] = []

    def factory(**kwargs: Any) -> Bar:
        made.append(Bar(**kwargs))
        return made[-1]

    with progress(factory, 3) as advance:
        assert advance is not None
        for _ in range(3):
            advance()
    assert made[0].kwargs == {"total": 3, "desc": "Processed prompts"}
    assert (made[0].count, made[0].is_closed) == (3, True)


def test_progress_may_be_off(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, total in ((False, 10), (True, 1)):
        with progress(flag, total) as advance:
            assert advance is None
    with progress(True, 10) as advance:
        assert advance is not None
        advance()
    assert capsys.readouterr().err.strip() == "", "a call this short shows no bar"


# ---- the two sides of a score --------------------------------------------------------------------------------------


def test_score_kinds() -> None:
    assert check_kind("classify", 1) == "cross-encoder"
    assert check_kind("embed", 2) == "bi-encoder"
    assert check_kind("token_embed", 2) == "late-interaction"
    with pytest.raises(ValueError, match=r"^Scoring API is only enabled for num_labels == 1\.$"):
        check_kind("classify", 2)
    with pytest.raises(ValueError, match=r"^This model does not support the Scoring API\.$"):
        check_kind("token_classify", 1)


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, ["a\nb"]),
        ([{"content": "a"}, "b"], ["a", "b"]),
        ([], []),
    ],
)
def test_score_inputs(data: Any, texts: list[str]) -> None:
    found = score_texts(data, "Arch")
    assert [each.text for each in found] == texts
    assert all(each.is_parts == isinstance(item, dict) for each, item in zip(found, _listed(data), strict=True))


def _listed(data: Any) -> list[Any]:
    return data if isinstance(data, list) else [data]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (5, "score inputs must be str, a content dict or a list of those, got int"),
        ([5], "a score input must be str or {'content': [parts]}, got int"),
        ([{"text": "a"}], "a score input must be str or {'content': [parts]}, got dict"),
        ({"content": [{"type": "image_url", "image_url": {"url": "u"}}]}, "MultiModalParam is not supported for Arch"),
        ({"content": [{"type": "text"}]}, "a text part needs `text` (str), got {'type': 'text'}"),
    ],
)
def test_wrong_score_inputs(data: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        score_texts(data, "Arch")
    assert str(caught.value) == message


def test_pairing() -> None:
    for sizes in ((1, 1), (1, 5), (3, 3)):
        check_pairing(*sizes)
    for sizes, message in (
        ((2, 1), "Input lengths must be either 1:1, 1:N or N:N"),
        ((3, 2), "Input lengths must be either 1:1, 1:N or N:N"),
        ((0, 1), "At least one text element must be given"),
        ((1, 0), "At least one text_pair element must be given"),
    ):
        with pytest.raises(ValidationError) as caught:
            check_pairing(*sizes)
        assert str(caught.value) == message


def test_score_limits() -> None:
    assert not score_limits(None, 100).any
    limits = score_limits({"max_tokens_per_query": 0, "max_tokens_per_doc": 7}, 100)
    assert (limits.query, limits.doc, limits.any) == (0, 7, True)
    for value, message in (
        (-1, "max_tokens_per_doc must be a non-negative integer"),
        (1.5, "max_tokens_per_doc must be a non-negative integer"),
        (100, "max_tokens_per_doc (100) must be less than max_model_len (100)."),
    ):
        with pytest.raises(ValueError) as caught:
            score_limits({"max_tokens_per_doc": value}, 100)
        assert str(caught.value) == message


def test_separator_keys(caplog: pytest.LogCaptureFixture) -> None:
    assert uses_separator(HFConfig({}))
    assert not uses_separator(HFConfig({"use_sep_token": False}))
    with caplog.at_level(logging.WARNING, "assay"):
        assert not uses_separator(HFConfig({"use_pad_token": False, "use_sep_token": True}))
        assert uses_separator(HFConfig({"use_pad_token": True, "use_sep_token": False}))
    assert caplog.text.count("use_pad_token has been deprecated; please use use_sep_token instead.") == 2


def test_score_text_defaults() -> None:
    assert ScoreText("a") == ScoreText("a", is_parts=False)
