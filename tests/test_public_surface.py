from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

import assay
from assay import LLM, PoolerConfig, PoolingParams

NAMES = [
    "LLM",
    "AssayError",
    "ClassificationOutput",
    "ClassificationRequestOutput",
    "ConfigError",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "EngineDeadError",
    "MissingExtra",
    "NonFiniteError",
    "PoolerConfig",
    "PoolingOutput",
    "PoolingParams",
    "PoolingRequestOutput",
    "RequestError",
    "ScoringOutput",
    "ScoringRequestOutput",
    "SelfCheckError",
    "TextPrompt",
    "TokensPrompt",
    "UnsupportedModelError",
    "ValidationError",
    "WeightsError",
    "__version__",
]


def test_exported_names_are_pinned() -> None:
    assert assay.__all__ == NAMES
    assert set(NAMES) <= set(dir(assay))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_loads_from_the_package(name: str) -> None:
    value = getattr(assay, name)
    assert name == "__version__" or value.__name__ == name


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'SamplingParams'"):
        _ = assay.SamplingParams


def test_config_is_also_found_below_config() -> None:
    from assay.config import PoolerConfig as below

    assert below is PoolerConfig


def keywords(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "kwargs")]


LLM_KEYWORDS = """model runner convert tokenizer tokenizer_mode skip_tokenizer_init trust_remote_code dtype quantization
quantization_data revision tokenizer_revision chat_template score_template hf_token hf_overrides pooler_config
override_pooler_config max_model_len model_impl max_batch_tokens max_num_batched_tokens max_batch_size max_num_seqs
num_threads scheduling_policy max_queued_tokens result_cache_bytes offline device enforce_eager
gpu_memory_utilization self_check non_finite
enable_lora max_lora_rank max_loras max_cpu_loras max_lora_cls_labels
allowed_local_media_path allowed_media_domains limit_mm_per_prompt mm_processor_kwargs"""


def test_llm_signature_is_pinned() -> None:
    assert keywords(LLM.__init__) == LLM_KEYWORDS.split()


COMMON = ["use_tqdm", "lora_request", "tokenization_kwargs", "truncate_prompt_tokens"]
CHAT = """chat_template add_generation_prompt continue_final_message add_special_tokens chat_template_kwargs""".split()
SCORE = ["chat_template", "chat_template_kwargs", "instruction"]


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("classify", ["prompts", "pooling_params", *COMMON, *CHAT]),
        ("embed", ["prompts", "pooling_params", *COMMON]),
        ("reward", ["prompts", "pooling_params", *COMMON, *CHAT]),
        ("encode", ["prompts", "pooling_params", "pooling_task", *COMMON, *CHAT]),
        ("score", ["data_1", "data_2", "pooling_params", *COMMON, *SCORE]),
    ],
)
def test_method_signatures_are_pinned(method: str, parameters: list[str]) -> None:
    signature = inspect.signature(getattr(LLM, method))
    assert sorted(keywords(getattr(LLM, method))) == sorted(parameters)
    assert signature.parameters["use_tqdm"].default is True
    positional = {"score": ["data_1", "data_2"], "encode": ["prompts", "pooling_params"]}.get(method, ["prompts"])
    for name, parameter in signature.parameters.items():
        assert (name == "self" or name in positional) == (parameter.kind is not inspect.Parameter.KEYWORD_ONLY)


def test_other_members_exist() -> None:
    for name in ("get_tokenizer", "supported_tasks", "pooling_task", "from_engine_args", "labels", "close"):
        assert hasattr(LLM, name)


def test_field_names_are_pinned() -> None:
    assert [field.name for field in dataclasses.fields(PoolingParams)] == [
        "use_activation",
        "dimensions",
        "step_tag_id",
        "returned_token_ids",
        "task",
        "requires_token_ids",
        "skip_reading_prefix_cache",
        "late_interaction_params",
        "extra_kwargs",
        "output_kind",
    ]
    assert [field.name for field in dataclasses.fields(PoolerConfig)] == [
        "task",
        "pooling_type",
        "seq_pooling_type",
        "tok_pooling_type",
        "use_activation",
        "enable_flash_late_interaction",
        "dimensions",
        "enable_chunked_processing",
        "max_embed_len",
        "logit_mean",
        "logit_sigma",
        "step_tag_id",
        "returned_token_ids",
        "activation",
    ]
