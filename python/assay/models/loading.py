"""A plan and a checkpoint become a model: every tensor is used or on a list of known extras, none is made up."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assay.errors import ConfigError
from assay.models.family import Int8Loader
from assay.models.heads import head_tensors, load_classifier, load_heads, taken_classifier
from assay.models.plan import make_plan
from assay.models.pooling_model import PoolingModel, TaskHead
from assay.models.transformers_class import Outline
from assay.models.transformers_loading import load_parts
from assay.weights import WeightMap

if TYPE_CHECKING:
    from assay.config import PoolerConfig
    from assay.files import ModelFiles
    from assay.hf_config import HFConfig
    from assay.models.family import Backbone
    from assay.models.plan import Plan

_BUFFERS = (
    r"(.*\.)?embeddings\.position_ids",
    r"(.*\.)?embeddings\.token_type_ids",
    r"(.*\.)?rotary_emb\.inv_freq",
)
"""Tables that old versions of transformers saved along with the weights."""
_POOLER = r"{}pooler\..*"

_AUTO = {
    "float32": ("float32", "the checkpoint is float32"),
    "float64": ("float32", "the checkpoint is float64"),
    "float16": ("float32", "the checkpoint is float16, whose every value float32 holds exactly"),
    "bfloat16": ("bfloat16", "the checkpoint is bfloat16"),
}


def resolve_dtype(dtype: str, stored: str) -> tuple[str, str]:
    """The dtype to run in and why, from what was asked for and what the checkpoint stores."""
    if dtype == "auto":
        if stored not in _AUTO:
            raise ConfigError(f"dtype='auto': the checkpoint's dtype {stored!r} is not supported")
        return _AUTO[stored]
    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"dtype={dtype!r} is not supported on the CPU: use 'auto', 'float32' or 'bfloat16'")
    return dtype, "as asked"


def load_model(
    files: ModelFiles,
    hf_config: HFConfig,
    *,
    dtype: str,
    pooler_config: PoolerConfig,
    max_batch_tokens: int,
    max_batch_size: int,
    max_model_len: int | None = None,
    model_impl: str = "auto",
    quantization: str | None = None,
) -> PoolingModel:
    """Load a model for batches of at most max_batch_tokens tokens and max_batch_size sequences.

    max_model_len: no sequence will be longer, which saves memory where the model could read longer ones. model_impl:
    see `registry.resolve`. quantization "int8": the layers' products are of whole numbers, the rest is bfloat16; what
    that costs is not judged here. Raises UnsupportedModelError, ConfigError or WeightsError.
    """
    plan = make_plan(files, hf_config, pooler_config, model_impl)
    loaded = load_weights(plan, files, dtype=dtype, max_model_len=max_model_len, quantization=quantization)
    return PoolingModel(
        architecture=plan.architecture,
        backbone=loaded.backbone,
        heads=loaded.heads,
        task=plan.task,
        hf_config=plan.hf_config,
        pooler_config=plan.pooler_config,
        dtype=loaded.dtype,
        dtype_reason=loaded.dtype_reason,
        max_model_len=plan.max_model_len,
        max_model_len_source=plan.max_model_len_source,
        embedding_size=plan.embedding_size,
        max_batch_tokens=max(max_batch_tokens, longest_sequence(plan, max_model_len)),
        max_batch_size=max_batch_size,
        quantization=quantization,
    )


def longest_sequence(plan: Plan, max_model_len: int | None) -> int:
    """Tokens of the longest sequence a model is loaded for: it always fits a batch."""
    return min(plan.shape.max_model_len, max_model_len or plan.shape.max_model_len)


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """What a plan's checkpoint became. heads: by task."""

    backbone: Backbone
    heads: dict[str, TaskHead]
    dtype: str
    dtype_reason: str


def load_weights(
    plan: Plan,
    files: ModelFiles,
    *,
    dtype: str,
    max_model_len: int | None = None,
    quantization: str | None = None,
    has_numbers: bool = True,
) -> LoadedWeights:
    """Take the tensors of a plan; the arguments are those of `load_model`.

    has_numbers False reads the headers of the files only: the parts have every size and cannot be run. That is for
    families of this package, not for what transformers loads. Raises ConfigError or WeightsError.
    """
    weights = WeightMap(files.weight_files(), has_numbers=has_numbers)
    longest = longest_sequence(plan, max_model_len)
    loader = plan.family.backbone
    if quantization is not None:
        dtype = _dtype_beside_int8(dtype, plan)
    backbone: Backbone
    if isinstance(loader, Outline):
        assert has_numbers
        dtype, reason = resolve_dtype(dtype, weights.dtype(weights.largest()))
        parts = load_parts(files, loader, plan.hf_config.num_labels, dtype)
        backbone, classifier = parts.backbone, taken_classifier(plan, parts)
    else:
        prefix = weights.prefix(plan.family.prefixes, loader.word_table)
        dtype, reason = resolve_dtype(dtype, weights.dtype(prefix + loader.word_table))
        backbone_tensors = [prefix + name for name in loader.tensor_names(plan.shape)]
        weights.require(backbone_tensors + head_tensors(plan, weights, prefix))
        if quantization is not None:
            assert isinstance(loader, Int8Loader)  # _dtype_beside_int8
            reason = "beside int8"
            backbone = loader.load_int8(weights, prefix, plan.shape, longest)
        else:
            backbone = loader.load(weights, prefix, plan.shape, dtype, longest)
        classifier = load_classifier(plan, weights, prefix)
        weights.finish(ignore=[pattern.replace("{}", re.escape(prefix)) for pattern in _ignored(plan)])
    return LoadedWeights(backbone, load_heads(plan, files, classifier, has_numbers=has_numbers), dtype, reason)


def _dtype_beside_int8(dtype: str, plan: Plan) -> str:
    """The dtype of what int8 leaves alone; raises ConfigError for a model or a dtype that does not go with it."""
    if not isinstance(plan.family.backbone, Int8Loader):
        raise ConfigError(f"quantization='int8' is not supported for {plan.architecture}: use dtype='bfloat16'")
    if dtype not in ("auto", "bfloat16"):
        raise ConfigError(f"quantization='int8' and dtype={dtype!r} contradict each other: use 'bfloat16' or 'auto'")
    return "bfloat16"


def _ignored(plan: Plan) -> tuple[str, ...]:
    """Patterns of tensors this architecture may carry along unused."""
    patterns = _BUFFERS + plan.family.ignored
    if plan.head != "sequence":
        patterns += (_POOLER,)
    if plan.head in ("embedding", "probe"):
        patterns += plan.family.other_heads
    return patterns
