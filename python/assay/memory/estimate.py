"""From a model's config and the headers of its files to a memory plan; the code that loads it gives the sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from assay import ops
from assay.memory.plan import MemoryPlan
from assay.memory.process import measure_base
from assay.memory.weigh import backbone_bytes, weight_bytes
from assay.models.loading import load_weights, longest_sequence, resolve_dtype
from assay.models.plan import make_plan
from assay.models.transformers_class import Outline
from assay.weights import WeightMap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from assay.config import EngineConfig, PoolerConfig
    from assay.files import ModelFiles
    from assay.hf_config import HFConfig
    from assay.memory.process import Base
    from assay.models.plan import Plan

_MOST_TOKENS: Final = 2**31 - 1
"""cu_seqlens counts tokens in int32."""
_ITEM_BYTES: Final = {"float32": 4, "bfloat16": 2}


def plan_memory(
    files: ModelFiles,
    hf_config: HFConfig,
    pooler_config: PoolerConfig,
    *,
    config: EngineConfig,
    dtype: str = "auto",
    quantization: str | None = None,
    max_model_len: int | None = None,
    model_impl: str = "auto",
    limit_bytes: int | None = None,
    base: Base | None = None,
) -> MemoryPlan:
    """The plan of a model that would be loaded with these settings, which are those of `LLM`.

    limit_bytes: look for the largest max_batch_tokens within so much. base: measured here by default. Raises
    UnsupportedModelError, ConfigError or WeightsError for what would not load either.
    """
    plan = make_plan(files, hf_config, pooler_config, model_impl)
    num_threads = config.num_threads or ops.num_threads()
    base = base or measure_base(files, num_threads)
    settings: dict[str, Any] = {
        "architecture": plan.architecture,
        "isa": ops.active_isa(),
        "num_threads": num_threads,
        "quantization": quantization,
        "max_batch_tokens": config.max_batch_tokens,
        "max_batch_size": config.max_batch_size,
        "max_model_len": min(plan.max_model_len, max_model_len or plan.max_model_len),
        "base": base,
        "limit_bytes": limit_bytes,
    }
    if isinstance(plan.family.backbone, Outline):
        return MemoryPlan(**settings, **_through_transformers(files, dtype))
    options: dict[str, Any] = {"dtype": dtype, "max_model_len": max_model_len, "quantization": quantization}
    loaded = load_weights(plan, files, **options, has_numbers=False)
    backbone: Any = loaded.backbone  # of layers: every family of this package has them
    longest = longest_sequence(plan, max_model_len)
    arena_tokens = max(config.max_batch_tokens, longest)
    weights = {**backbone_bytes(backbone), "head": weight_bytes([task.head for task in loaded.heads.values()])}
    scratch = max(layer.scratch_size(settings["max_model_len"]) for layer in backbone.layers)

    def arena_size(num_tokens: int) -> int:
        return int(backbone.arena_size(num_tokens, config.max_batch_size))

    guard_bytes = 0
    if quantization is not None:
        exact = load_weights(plan, files, **{**options, "dtype": "bfloat16", "quantization": None}, has_numbers=False)
        guard_bytes = weight_bytes(exact.backbone) + exact.backbone.arena_size(arena_tokens, config.max_batch_size)
    fixed = sum(weights.values()) + scratch * num_threads + guard_bytes + base.resident_bytes
    largest = None if limit_bytes is None else _largest(arena_size, longest, limit_bytes - fixed)
    return MemoryPlan(
        **settings,
        dtype=loaded.dtype,
        dtype_reason=loaded.dtype_reason,
        arithmetic=str(ops.cpu_module().arithmetic_name(quantization or loaded.dtype)),
        arena_tokens=arena_tokens,
        weights={name: size for name, size in weights.items() if size},
        arena_bytes=arena_size(arena_tokens),
        scratch_bytes=scratch * num_threads,
        guard_bytes=guard_bytes,
        largest_batch_tokens=largest,
        notes=tuple(_notes(plan, base, config.max_batch_tokens, longest, quantization)),
    )


def _through_transformers(files: ModelFiles, dtype: str) -> dict[str, Any]:
    """What is known of a model that transformers runs: how many numbers it has."""
    stored = WeightMap(files.weight_files(), has_numbers=False)
    dtype, reason = resolve_dtype(dtype, stored.dtype(stored.largest()))
    count = sum(stored.num_numbers(name) for name in stored.names())
    return {
        "dtype": dtype,
        "dtype_reason": reason,
        "arithmetic": str(ops.cpu_module().arithmetic_name(dtype)),
        "arena_tokens": None,
        "weights": {"checkpoint": count * _ITEM_BYTES[dtype]},
        "arena_bytes": None,
        "scratch_bytes": None,
        "notes": (
            "the model runs through transformers, which allocates activations as it goes: what they take is not known "
            "beforehand, and while the model is loaded and compared with transformers, its weights are there twice",
        ),
    }


def _largest(arena_size: Callable[[int], int], longest: int, left_bytes: int) -> int | None:
    """The most tokens whose arena takes at most left_bytes; None where that of the longest input is too large."""
    if arena_size(longest) > left_bytes:
        return None
    low, high = longest, 2 * longest
    while high <= _MOST_TOKENS and arena_size(high) <= left_bytes:
        low, high = high, 2 * high
    high = min(high, _MOST_TOKENS + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if arena_size(middle) <= left_bytes else (low, middle)
    return low


def _notes(plan: Plan, base: Base, max_batch_tokens: int, longest: int, quantization: str | None) -> Iterator[str]:
    if longest > max_batch_tokens:
        yield (
            f"inputs of up to {longest} tokens are taken, so the arena has room for one of them; memory that no input "
            f"has needed so far is not resident, and a lower limit of length (--max-length) makes it smaller"
        )
    if quantization is not None:
        yield (
            "up to half of the layers may stay in bfloat16, which takes more; the first start compares int8 with a "
            "bfloat16 model, later ones remember the verdict and load that model only if layers of it are used"
        )
    if base.tokenizer_error is not None:
        yield f"the base has no tokenizer in it: {base.tokenizer_error}"
    if plan.modules is not None and plan.modules.dense:
        yield "the head includes the Dense modules of sentence-transformers"
