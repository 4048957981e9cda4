"""A plan and a checkpoint become a model: every tensor is used or on a list of known extras, none is made up."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from assay.errors import ConfigError, WeightsError
from assay.models.encoder import Encoder, tensor_names
from assay.models.pooling_model import EmbeddingHead, PoolingModel, TaskHead
from assay.models.registry import Plan, make_plan
from assay.models.sentence_transformer import load_dense
from assay.pooler import ClassifierHead
from assay.weights import WeightMap

if TYPE_CHECKING:
    from assay.config import PoolerConfig
    from assay.files import ModelFiles
    from assay.hf_config import HFConfig

WORD_TABLE = "embeddings.word_embeddings.weight"
TOKEN_CLASSIFIER = "classifier"
HEAD_FILE = "head.safetensors"
_BUFFERS = (r"(.*\.)?embeddings\.position_ids", r"(.*\.)?embeddings\.token_type_ids")
"""Counters that old versions of transformers saved along with the weights."""
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
) -> PoolingModel:
    """Load a model for batches of at most max_batch_tokens tokens and max_batch_size sequences.

    Raises UnsupportedModelError, ConfigError or WeightsError.
    """
    plan = make_plan(files, hf_config, pooler_config)
    weights = WeightMap(files.weight_files())
    prefix = weights.prefix(plan.family.prefixes, WORD_TABLE)
    dtype, reason = resolve_dtype(dtype, weights.dtype(prefix + WORD_TABLE))
    weights.require(tensor_names(prefix, plan.family, plan.shape) + _head_tensors(plan, prefix))
    encoder = Encoder.load(weights, prefix, plan.family, plan.shape, dtype)
    heads = _load_heads(plan, files, weights, prefix)
    weights.finish(ignore=[pattern.replace("{}", re.escape(prefix)) for pattern in _ignored(plan)])
    return PoolingModel(
        architecture=plan.architecture,
        encoder=encoder,
        heads=heads,
        task=plan.task,
        hf_config=plan.hf_config,
        pooler_config=plan.pooler_config,
        dtype=dtype,
        dtype_reason=reason,
        max_model_len=plan.max_model_len,
        max_model_len_source=plan.max_model_len_source,
        embedding_size=plan.embedding_size,
        max_batch_tokens=max_batch_tokens,
        max_batch_size=max_batch_size,
    )


def _head_modules(plan: Plan, prefix: str) -> tuple[str | None, str | None]:
    """Names of the head's dense layer and classifier in the backbone's checkpoint."""
    if plan.head == "sequence":
        return plan.family.head.dense.format(prefix), plan.family.head.classifier
    return None, TOKEN_CLASSIFIER if plan.head == "token" else None


def _head_tensors(plan: Plan, prefix: str) -> list[str]:
    return [f"{name}.{kind}" for name in _head_modules(plan, prefix) if name for kind in ("weight", "bias")]


def _ignored(plan: Plan) -> tuple[str, ...]:
    """Patterns of tensors this architecture may carry along unused."""
    patterns = _BUFFERS + plan.family.ignored
    if plan.head != "sequence":
        patterns += (_POOLER,)
    if plan.head in ("embedding", "probe"):
        patterns += plan.family.other_heads
    return patterns


def _load_heads(plan: Plan, files: ModelFiles, weights: WeightMap, prefix: str) -> dict[str, TaskHead]:
    dense, classifier = _head_modules(plan, prefix)
    heads: dict[str, ClassifierHead | EmbeddingHead] = {}
    if classifier is not None:
        heads["classify"] = heads["token_classify"] = _classifier(plan, weights, dense, classifier)
    else:
        embedding = EmbeddingHead(() if plan.modules is None else load_dense(files, plan.modules))
        heads["embed"] = heads["token_embed"] = embedding
    if plan.head == "probe":
        assert files.head_folder is not None
        own = WeightMap([files.head_folder / HEAD_FILE])
        own.require(["classifier.weight", "classifier.bias"])
        heads["classify"] = _classifier(plan, own, None, "classifier")
        own.finish()
    return {task: TaskHead(pooling, heads[task]) for task, pooling in plan.tasks.items()}


def _classifier(plan: Plan, weights: WeightMap, dense: str | None, classifier: str) -> ClassifierHead:
    num_labels, rows = plan.hf_config.num_labels, weights.shape(f"{classifier}.weight")[0]
    if rows != num_labels:
        raise WeightsError(
            f"config.json names {num_labels} labels (id2label or num_labels), but {classifier}.weight has {rows} rows"
        )
    assert plan.activation is not None
    return ClassifierHead.load(
        weights,
        dense=dense,
        dense_activation=plan.family.head.dense_activation,
        classifier=classifier,
        hidden_size=plan.shape.hidden_size,
        num_labels=num_labels,
        activation=plan.activation,
        config=plan.pooler_config,
    )
