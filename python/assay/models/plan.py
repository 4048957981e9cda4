"""What a model folder will be run as: decided from its config and tokenizer files alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from assay.convert import HeadPlan, plan_head, refuse_rows
from assay.errors import UnsupportedModelError
from assay.files import sentence_config
from assay.hf_config import HFConfig, read_json
from assay.models.registry import resolve
from assay.models.sentence_transformer import Modules, read_modules, with_saved_activation
from assay.pooler import (
    SEQ_POOLING,
    Activation,
    active_task,
    reads_one_token,
    resolve_activation,
    seq_pooling,
    with_pooling_in_use,
    with_step_default,
)
from assay.vocabulary import Vocabulary

if TYPE_CHECKING:
    from assay.config import PoolerConfig
    from assay.files import ModelFiles
    from assay.models.family import BackboneShape, Family, HeadShape

logger = logging.getLogger(__name__)

Head = Literal["sequence", "token", "embedding", "probe"]
"""sequence, token: the classifier of that transformers class. embedding: none. probe: one linear layer kept apart."""

ALL_TOKENS = ("all",)
_NO_LIMIT = 10**9


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be loaded and run.

    head_shape: the classifier in the backbone's checkpoint; None for an embedding and a probe. head_plan: where a
    causal model's classifier comes from; None for the others. tasks: each supported task and its pooling modes
    (ALL_TOKENS: every token). activation: None without a classifier. max_model_len_source: the setting the limit comes
    from, as "key=value".
    """

    architecture: str
    family: Family[Any]
    head: Head
    head_shape: HeadShape | None
    head_plan: HeadPlan | None
    shape: BackboneShape
    hf_config: HFConfig
    pooler_config: PoolerConfig
    tasks: dict[str, tuple[str, ...]]
    task: str
    activation: Activation | None
    modules: Modules | None
    normalize: bool
    embedding_size: int
    max_model_len: int
    max_model_len_source: str

    @property
    def reads_one_token(self) -> bool:
        """Whether the task that will run reads one token of each sequence only."""
        return reads_one_token(self.tasks[self.task])


def make_plan(files: ModelFiles, hf_config: HFConfig, pooler_config: PoolerConfig, model_impl: str = "auto") -> Plan:
    """Decide how a model runs; raises UnsupportedModelError or ConfigError that says what is in the way.

    model_impl: see `registry.resolve`.
    """
    modules = read_modules(files)
    architecture, family, suffix = resolve(hf_config, modules is not None, model_impl)
    hf_config = family.prepare(hf_config)
    head_shape = family.configure_head(hf_config, family.heads[suffix]) if suffix in family.heads else None
    head = _head_kind(head_shape)
    probe = {} if files.head_folder is None else read_json(files.head_folder / "config.json")
    if files.head_folder is not None:
        if head != "embedding":
            raise UnsupportedModelError(f"a separate head needs a bare backbone, got {architecture}")
        head, hf_config = "probe", _merged(hf_config, probe)
    hf_config = with_saved_activation(hf_config, files.folder)
    head_plan = None
    if head == "sequence" and family.lm_head is not None:
        head_plan = plan_head(hf_config, architecture, Vocabulary(files.tokenizer_folder or files.folder).ids)
        hf_config = head_plan.applied(hf_config)
    elif head_shape is not None:
        refuse_rows(hf_config, architecture)
    if head_shape is not None and head_shape.num_labels is not None:
        hf_config = hf_config.copy()
        hf_config.update({"num_labels": head_shape.num_labels})
    if head_shape is not None and head_shape.logit_mean is not None and pooler_config.logit_mean is None:
        pooler_config = pooler_config.replace(logit_mean=head_shape.logit_mean)
    shape: BackboneShape = family.shape(hf_config)
    tasks = _tasks(family, hf_config, head, modules, probe, pooler_config)
    pooler_config = with_step_default(pooler_config, head_shape.step_tag_id if head_shape else None, tasks)
    max_model_len, source = _max_model_len(files, shape)
    has_classifier = head != "embedding"
    default_task = pooler_config if head != "probe" or pooler_config.task else pooler_config.replace(task="classify")
    normalize = True if modules is None else modules.normalize
    task = active_task(default_task, tuple(tasks), architecture)
    use_activation = pooler_config.use_activation
    if use_activation is None:
        by_head = head_shape is None or head_shape.use_activation
        use_activation = normalize if task in ("embed", "token_embed") else by_head
    return Plan(
        architecture=architecture,
        family=family,
        head=head,
        head_shape=head_shape,
        head_plan=head_plan,
        shape=shape,
        hf_config=hf_config,
        pooler_config=with_pooling_in_use(pooler_config, tasks).replace(use_activation=use_activation),
        tasks=tasks,
        task=task,
        activation=resolve_activation(hf_config, pooler_config, hf_config.num_labels) if has_classifier else None,
        modules=modules,
        normalize=normalize,
        embedding_size=shape.hidden_size if modules is None else modules.embedding_size(shape.hidden_size),
        max_model_len=max_model_len,
        max_model_len_source=source,
    )


def _head_kind(head_shape: HeadShape | None) -> Head:
    if head_shape is None:
        return "embedding"
    return "token" if head_shape.is_per_token else "sequence"


def _merged(hf_config: HFConfig, extra: dict[str, object]) -> HFConfig:
    """The config with keys of the head's own config where it has none."""
    merged = hf_config.copy()
    merged.update({key: value for key, value in extra.items() if key not in hf_config})
    return merged


def _tasks(
    family: Family[Any],
    hf_config: HFConfig,
    head: Head,
    modules: Modules | None,
    probe: dict[str, object],
    config: PoolerConfig,
) -> dict[str, tuple[str, ...]]:
    if head == "token":
        return {"token_classify": ALL_TOKENS}
    if head == "sequence":
        default = (family.pooling(hf_config),)
        return {"classify": _classify_pooling(family, config, default), "token_classify": ALL_TOKENS}
    default = ((family.embed_pooling or family.pooling)(hf_config),)
    pooling = seq_pooling(config, default if modules is None else modules.pooling)
    if head == "embedding":
        return {"embed": pooling, "token_embed": ALL_TOKENS}
    stated = str(probe.get("pooling", "mean")).upper()
    if stated not in SEQ_POOLING:
        raise UnsupportedModelError(f"the head's config.json: pooling={stated!r} is none of {list(SEQ_POOLING)}")
    return {"embed": pooling, "classify": seq_pooling(config, (SEQ_POOLING[stated],))}


def _classify_pooling(family: Family[Any], config: PoolerConfig, default: tuple[str, ...]) -> tuple[str, ...]:
    pooling = seq_pooling(config, default)
    if family.is_pooling_fixed and pooling != default:
        logger.warning("pooling_type=%s has no effect: %s pools as its config.json says", pooling[0], family.name)
        return default
    return pooling


def _max_model_len(files: ModelFiles, shape: BackboneShape) -> tuple[int, str]:
    """The length limit and the setting it comes from; never more than there are positions.

    The tokenizer's limit counts only where positions are a table: elsewhere it is a habit of whoever saved it.
    """
    limit, source = shape.max_model_len, f"max_position_embeddings={shape.max_positions}"
    stated = sentence_config(files.folder).get("max_seq_length")
    name = "max_seq_length"
    if not isinstance(stated, int) and shape.has_position_table:
        stated = read_json(files.folder / "tokenizer_config.json").get("model_max_length")
        name = "model_max_length"
    if isinstance(stated, int | float) and 0 < stated < min(limit, _NO_LIMIT):
        return int(stated), f"{name}={int(stated)}"
    return limit, source
