"""Keywords of `LLM(...)` beyond those it handles itself: which have no effect here, and which are refused.

A keyword whose other values would change results, or promise something this engine does not do, is refused by name; one
that only tunes another engine's memory or compilation is accepted and has no effect.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from assay.config import EngineConfig, PoolerConfig
from assay.device import DEFAULT_MEMORY_UTILIZATION, Placement
from assay.errors import ConfigError
from assay.models.loading import check_dtype

if TYPE_CHECKING:
    from assay.device import Device

logger = logging.getLogger(__name__)

CUDA_BATCH_TOKENS: Final = 16384
CUDA_BATCH_SIZE: Final = 1024
"""Budgets on a GPU where none are given: below them its products wait for launches."""

NO_EFFECT: Final = frozenset(
    # memory, compilation and process layout of a GPU engine
    "cpu_offload_gb swap_space compilation_config attention_config "
    "kv_cache_memory_bytes kv_cache_dtype block_size num_gpu_blocks_override max_seq_len_to_capture "
    "disable_custom_all_reduce distributed_executor_backend enable_sleep_mode async_scheduling "
    "max_num_partial_prefills long_prefill_token_threshold disable_hybrid_kv_cache_manager "
    "prefix_caching_hash_algo attention_backend cuda_graph_sizes performance_mode optimization_level "
    # nothing here is random, and nothing is sampled
    "seed generation_config override_generation_config max_logprobs logprobs_mode "
    "lora_dtype fully_sharded_loras "
    # media: how another engine caches and profiles them
    "media_io_kwargs mm_processor_cache_gb interleave_mm_strings skip_mm_profiling "
    # logging, and details of loading
    "disable_log_stats served_model_name use_tqdm_on_load model_loader_extra_config ignore_patterns "
    "safetensors_load_strategy code_revision show_hidden_metrics_for_version".split()
)
"""Accepted and without effect."""

_ONLY: Final[dict[str, tuple[tuple[Any, ...], str]]] = {
    "runner": (("auto", "pooling"), ""),
    "convert": (("auto", "none", "embed", "classify"), ""),
    "tokenizer_mode": (("auto", "hf"), "tokenizers run on their fast (Rust) backend"),
    "quantization": ((None, "int8"), "weights run in float32, bfloat16 or int8"),
    "tensor_parallel_size": ((1,), "one process uses one device; run several processes for several"),
    "pipeline_parallel_size": ((1,), "one process uses one device; run several processes for several"),
    "data_parallel_size": ((1,), "one process uses one device; run several processes for several"),
    "enable_expert_parallel": ((False,), "one process uses one device"),
    "enable_prompt_embeds": ((False,), "pass text or token ids"),
    "load_format": (("auto", "safetensors", "pt", "hf"), "random or foreign weights are never loaded"),
    "config_format": (("auto", "hf"), ""),
    "speculative_config": ((None,), "nothing is generated"),
    "logits_processors": ((None,), "nothing is generated"),
    "logits_processor_pattern": ((None,), "nothing is generated"),
    "rope_scaling": ((None,), "use hf_overrides={'rope_scaling': ...}"),
    "rope_theta": ((None,), "use hf_overrides={'rope_theta': ...}"),
    "hf_config_path": ((None,), "use hf_overrides"),
    "download_dir": ((None,), "set the environment variable HF_HUB_CACHE"),
    "disable_sliding_window": ((False,), ""),
    "task": ((None,), "use pooler_config=PoolerConfig(task=...)"),
    "model_impl": (
        ("auto", "vllm", "transformers"),
        "'vllm' is this package's own implementations, 'transformers' that library's code on our kernels",
    ),
    "worker_cls": (("auto",), ""),
    "worker_extension_cls": (("", None), ""),
    "kv_transfer_config": ((None,), ""),
}
"""Values that are accepted (they change nothing), and what to do instead of any other."""

_GENERATE: Final = (
    "Embedding models do not support `--runner generate`. "
    "Use `--runner pooling` or `--runner auto` for embedding models."
)
_WARNED: Final = ("enable_chunked_prefill", "enable_prefix_caching")


def check_keywords(keywords: Mapping[str, Any]) -> None:
    """Raise ConfigError for a value that cannot be honoured, TypeError for a keyword nobody knows."""
    for name, value in keywords.items():
        if name == "runner" and value == "generate":
            raise ConfigError(_GENERATE)
        if name in _ONLY:
            accepted, advice = _ONLY[name]
            if not any(value is choice or value == choice for choice in accepted):
                choices = " or ".join(repr(choice) for choice in accepted)
                reason = f" ({advice})" if advice else ""
                raise ConfigError(f"{name}={value!r} is not supported: use {choices}{reason}")
        elif name in _WARNED:
            if value:
                logger.warning("%s=True has no effect: every prompt is read whole, and nothing is cached", name)
        elif name == "trust_remote_code":
            if value:
                logger.warning("trust_remote_code=True has no effect: code from a model folder is never run")
        elif name not in NO_EFFECT:
            raise TypeError(f"LLM() got an unexpected keyword argument {name!r}{_suggestion(name)}")


def _suggestion(name: str) -> str:
    known = [*NO_EFFECT, *_ONLY, *_WARNED, "max_model_len", "max_num_seqs", "max_batch_tokens", "num_threads", "device"]
    close = difflib.get_close_matches(name, [*known, "pooler_config", "hf_overrides", "dtype", "tokenizer"], n=1)
    return f": did you mean {close[0]!r}?" if close else ""


def pooler_config_from(value: PoolerConfig | Mapping[str, Any] | None) -> PoolerConfig:
    """A PoolerConfig from what the caller gave."""
    if value is None:
        return PoolerConfig()
    if isinstance(value, PoolerConfig):
        return value
    if isinstance(value, Mapping):
        return PoolerConfig(**value)
    raise ConfigError(f"pooler_config must be a PoolerConfig or a dict, got {type(value).__name__}")


def dtype_name(dtype: Any, kind: str = "cpu") -> str:
    """ "auto" or what models run in on that kind of device, from a name or a torch dtype; raises ConfigError."""
    name = str(dtype).removeprefix("torch.")
    name = {"float": "float32", "half": "float16"}.get(name, name)
    check_dtype(name, kind, repr(dtype))
    return name


def placement_from(device: Device, enforce_eager: Any, memory_utilization: Any, quantization: str | None) -> Placement:
    """Where and how to run; raises ConfigError for values that are none, and for int8 on a GPU."""
    if device.is_cuda and quantization is not None:
        raise ConfigError(
            f"quantization={quantization!r} is for the CPU: leave it out on {device}, or use device='cpu'"
        )
    if enforce_eager is not None and not isinstance(enforce_eager, bool):
        raise ConfigError(f"enforce_eager must be True or False, got {enforce_eager!r}")
    share = DEFAULT_MEMORY_UTILIZATION if memory_utilization is None else memory_utilization
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ConfigError(f"gpu_memory_utilization must be above 0 and at most 1, got {share!r}")
    return Placement(device, bool(enforce_eager), float(share))


def engine_config_from(
    max_batch_tokens: int | None,
    max_num_batched_tokens: int | None,
    max_batch_size: int | None,
    max_num_seqs: int | None,
    num_threads: int | None,
    *,
    is_cuda: bool = False,
    **others: Any,
) -> EngineConfig:
    """The engine's settings; the budgets may each be given under their own name or the other engine's."""
    tokens = _either("max_batch_tokens", max_batch_tokens, "max_num_batched_tokens", max_num_batched_tokens)
    size = _either("max_batch_size", max_batch_size, "max_num_seqs", max_num_seqs)
    if is_cuda:
        tokens, size = tokens or CUDA_BATCH_TOKENS, size or CUDA_BATCH_SIZE
    given: dict[str, Any] = {"max_batch_tokens": tokens, "max_batch_size": size, "num_threads": num_threads, **others}
    return EngineConfig(**{name: value for name, value in given.items() if value is not None})


def _either(name: str, value: int | None, alias: str, alias_value: int | None) -> int | None:
    if value is not None and alias_value is not None and value != alias_value:
        raise ConfigError(f"{name}={value} and {alias}={alias_value} contradict each other: set one")
    return value if value is not None else alias_value
