"""From a model's config and the headers of its files to a memory plan; the code that loads it gives the sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from assay import ops
from assay.memory.plan import MemoryPlan
from assay.memory.process import measure_base
from assay.memory.weigh import backbone_bytes, weight_bytes
from assay.models.loading import load_weights, longest_sequence, product_arithmetic, resolve_dtype
from assay.models.plan import make_plan
from assay.models.transformers_class import Outline
from assay.models.vision_language import VisionLanguageModel
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
_IMAGE_TOKENS: Final = 1000
"""Of the image that a note tells the memory of: about a million pixels."""
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
    settings: dict[str, Any] = {
        "architecture": plan.architecture,
        "isa": ops.active_isa(),
        "num_threads": num_threads,
        "quantization": quantization,
        "max_batch_size": config.max_batch_size,
        "max_model_len": min(plan.max_model_len, max_model_len or plan.max_model_len),
        "limit_bytes": limit_bytes,
    }
    if isinstance(plan.family.backbone, Outline):
        known = _through_transformers(files, dtype)
        settings |= {"max_batch_tokens": config.max_batch_tokens, "base": base or measure_base(files, num_threads)}
        return MemoryPlan(**settings, **known)
    options: dict[str, Any] = {"dtype": dtype, "max_model_len": max_model_len, "quantization": quantization}
    loaded = load_weights(plan, files, **options, has_numbers=False)
    backbone: Any = loaded.backbone  # of layers: every family of this package has them
    weights = {**backbone_bytes(backbone), "head": weight_bytes([task.head for task in loaded.heads.values()])}
    scratch = max(layer.scratch_size(settings["max_model_len"]) for layer in backbone.layers)
    exact: Any = None
    if quantization is not None:
        options |= {"dtype": "bfloat16", "quantization": None}
        exact = load_weights(plan, files, **options, has_numbers=False).backbone
    base = base or measure_base(files, num_threads)
    longest = longest_sequence(plan, max_model_len)

    def planned(max_batch_tokens: int) -> MemoryPlan:
        tokens = max(max_batch_tokens, longest)
        guard = 0 if exact is None else weight_bytes(exact) + exact.arena_size(tokens, config.max_batch_size)
        return MemoryPlan(
            **settings,
            max_batch_tokens=max_batch_tokens,
            base=base,
            dtype=loaded.dtype,
            dtype_reason=loaded.dtype_reason,
            arithmetic=str(ops.cpu_module().arithmetic_name(loaded.arithmetic)),
            arena_tokens=tokens,
            weights={name: size for name, size in weights.items() if size},
            arena_bytes=backbone.arena_size(tokens, config.max_batch_size),
            scratch_bytes=scratch * num_threads,
            guard_bytes=guard,
        )

    return replace(
        planned(config.max_batch_tokens),
        largest_batch_tokens=_largest(longest, lambda tokens: planned(tokens).fits or False),
        notes=(*_notes(plan, base, config.max_batch_tokens, longest, quantization), *_image_notes(backbone)),
    )


def _through_transformers(files: ModelFiles, dtype: str) -> dict[str, Any]:
    """What is known of a model that transformers runs: how many numbers it has."""
    stored = WeightMap(files.weight_files(), has_numbers=False)
    asked = dtype
    dtype, reason = resolve_dtype(asked, stored.dtype(stored.largest()))
    count = sum(stored.num_numbers(name) for name in stored.names())
    return {
        "dtype": dtype,
        "dtype_reason": reason,
        "arithmetic": str(ops.cpu_module().arithmetic_name(product_arithmetic(asked, dtype, None, "cpu"))),
        "arena_tokens": None,
        "weights": {"checkpoint": count * _ITEM_BYTES[dtype]},
        "arena_bytes": None,
        "scratch_bytes": None,
        "notes": (
            "the model runs through transformers, which allocates activations as it goes: what they take is not known "
            "beforehand, and loading takes more than the weights for a while",
        ),
    }


def _largest(longest: int, fits: Callable[[int], bool]) -> int | None:
    """The most tokens that fit; None where the longest input does not."""
    if not fits(longest):
        return None
    low, high = longest, 2 * longest
    while high <= _MOST_TOKENS and fits(high):
        low, high = high, 2 * high
    high = min(high, _MOST_TOKENS + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
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


def _image_notes(backbone: Any) -> Iterator[str]:
    if isinstance(backbone, VisionLanguageModel):
        one = backbone.tower.bytes_for(_IMAGE_TOKENS) / 2**20
        kept = backbone.features.max_bytes / 2**20
        yield (
            f"beside this: an image of {_IMAGE_TOKENS} tokens takes {one:.0f} MiB while it goes through the tower, and "
            f"features of images seen before up to {kept:.0f} MiB"
        )
