"""A plan and a checkpoint become a model: every tensor is used or on a list of known extras, none is made up."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from assay.errors import ConfigError
from assay.models.heads import head_tensors, load_classifier, load_heads, taken_classifier
from assay.models.plan import make_plan
from assay.models.pooling_model import PoolingModel
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
) -> PoolingModel:
    """Load a model for batches of at most max_batch_tokens tokens and max_batch_size sequences.

    max_model_len: no sequence will be longer, which saves memory where the model could read longer ones. model_impl:
    see `registry.resolve`. Raises UnsupportedModelError, ConfigError or WeightsError.
    """
    plan = make_plan(files, hf_config, pooler_config, model_impl)
    weights = WeightMap(files.weight_files())
    longest = min(plan.shape.max_model_len, max_model_len or plan.shape.max_model_len)
    loader = plan.family.backbone
    backbone: Backbone
    if isinstance(loader, Outline):
        dtype, reason = resolve_dtype(dtype, weights.dtype(weights.largest()))
        parts = load_parts(files, loader, plan.hf_config.num_labels, dtype)
        backbone, classifier = parts.backbone, taken_classifier(plan, parts)
    else:
        prefix = weights.prefix(plan.family.prefixes, loader.word_table)
        dtype, reason = resolve_dtype(dtype, weights.dtype(prefix + loader.word_table))
        backbone_tensors = [prefix + name for name in loader.tensor_names(plan.shape)]
        weights.require(backbone_tensors + head_tensors(plan, weights, prefix))
        backbone = loader.load(weights, prefix, plan.shape, dtype, longest)
        classifier = load_classifier(plan, weights, prefix)
        weights.finish(ignore=[pattern.replace("{}", re.escape(prefix)) for pattern in _ignored(plan)])
    heads = load_heads(plan, files, classifier)
    return PoolingModel(
        architecture=plan.architecture,
        backbone=backbone,
        heads=heads,
        task=plan.task,
        hf_config=plan.hf_config,
        pooler_config=plan.pooler_config,
        dtype=dtype,
        dtype_reason=reason,
        max_model_len=plan.max_model_len,
        max_model_len_source=plan.max_model_len_source,
        embedding_size=plan.embedding_size,
        max_batch_tokens=max(max_batch_tokens, longest),  # the longest sequence always fits
        max_batch_size=max_batch_size,
    )


def _ignored(plan: Plan) -> tuple[str, ...]:
    """Patterns of tensors this architecture may carry along unused."""
    patterns = _BUFFERS + plan.family.ignored
    if plan.head != "sequence":
        patterns += (_POOLER,)
    if plan.head in ("embedding", "probe"):
        patterns += plan.family.other_heads
    return patterns
