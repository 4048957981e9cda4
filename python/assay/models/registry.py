"""Which architectures there are, and what a model folder will be run as: decided from its config files alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from assay.errors import UnsupportedModelError
from assay.files import sentence_config
from assay.hf_config import HFConfig, read_json
from assay.models import bert, distilbert, electra, ernie, roberta
from assay.models.sentence_transformer import Modules, read_modules, with_saved_activation
from assay.pooler import SEQ_POOLING, Activation, active_task, resolve_activation, seq_pooling

if TYPE_CHECKING:
    from assay.config import PoolerConfig
    from assay.files import ModelFiles
    from assay.models.family import EncoderShape, Family

Head = Literal["sequence", "token", "embedding", "probe"]
"""sequence, token: the classifier of that transformers class. embedding: none. probe: one linear layer kept apart."""

FAMILIES: tuple[Family, ...] = (bert.FAMILY, roberta.FAMILY, ernie.FAMILY, electra.FAMILY, distilbert.FAMILY)
_HEADS: dict[str, Head] = {
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "token",
    "Model": "embedding",
}
_PRETRAINING = ("ForMaskedLM", "ForPreTraining")
"""Classes whose backbone a sentence-transformers folder may use; alone they answer no question here."""

ARCHITECTURES: dict[str, tuple[Family, Head]] = {
    name + suffix: (family, head)
    for family in FAMILIES
    for name in family.class_names
    for suffix, head in _HEADS.items()
}
_BACKBONES = {name + suffix: family for family in FAMILIES for name in family.class_names for suffix in _PRETRAINING}
_MODEL_TYPES = {kind: family for family in FAMILIES for kind in family.model_types}

ALL_TOKENS = ("all",)
_NO_LIMIT = 10**9


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be loaded and run.

    tasks: each supported task and its pooling modes (ALL_TOKENS: every token). activation: None without a classifier.
    max_model_len_source: the setting the limit comes from, as "key=value".
    """

    architecture: str
    family: Family
    head: Head
    shape: EncoderShape
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


def make_plan(files: ModelFiles, hf_config: HFConfig, pooler_config: PoolerConfig) -> Plan:
    """Decide how a model runs; raises UnsupportedModelError or ConfigError that says what is in the way."""
    modules = read_modules(files)
    architecture, family, head = _resolve(hf_config, modules)
    probe = {} if files.head_folder is None else read_json(files.head_folder / "config.json")
    if files.head_folder is not None:
        if head != "embedding":
            raise UnsupportedModelError(f"a separate head needs a bare backbone, got {architecture}")
        head, hf_config = "probe", _merged(hf_config, probe)
    hf_config = with_saved_activation(hf_config, files.folder)
    shape = family.shape(hf_config)
    tasks = _tasks(head, modules, probe, pooler_config)
    max_model_len, source = _max_model_len(files, shape)
    has_classifier = head != "embedding"
    default_task = pooler_config if head != "probe" or pooler_config.task else pooler_config.replace(task="classify")
    normalize = True if modules is None else modules.normalize
    task = active_task(default_task, tuple(tasks), architecture)
    use_activation = pooler_config.use_activation
    if use_activation is None:
        use_activation = normalize if task in ("embed", "token_embed") else True
    return Plan(
        architecture=architecture,
        family=family,
        head=head,
        shape=shape,
        hf_config=hf_config,
        pooler_config=pooler_config.replace(use_activation=use_activation),
        tasks=tasks,
        task=task,
        activation=resolve_activation(hf_config, pooler_config, hf_config.num_labels) if has_classifier else None,
        modules=modules,
        normalize=normalize,
        embedding_size=shape.hidden_size if modules is None else modules.embedding_size(shape.hidden_size),
        max_model_len=max_model_len,
        max_model_len_source=source,
    )


def _resolve(hf_config: HFConfig, modules: Modules | None) -> tuple[str, Family, Head]:
    """The first architecture of the config that is known; a sentence-transformers chain takes its backbone."""
    names = hf_config.architectures
    for name in names:
        if modules is not None and name in _BACKBONES:
            return name, _BACKBONES[name], "embedding"
        if name in ARCHITECTURES:
            family, head = ARCHITECTURES[name]
            return name, family, "embedding" if modules is not None else head
    model_type = hf_config.get("model_type")
    if modules is not None and not names and model_type in _MODEL_TYPES:
        family = _MODEL_TYPES[model_type]
        return f"{family.class_names[0]}Model", family, "embedding"
    raise UnsupportedModelError(
        f"Model architectures {names} are not supported for now. Supported architectures: {sorted(ARCHITECTURES)}"
    )


def _merged(hf_config: HFConfig, extra: dict[str, object]) -> HFConfig:
    """The config with keys of the head's own config where it has none."""
    merged = hf_config.copy()
    merged.update({key: value for key, value in extra.items() if key not in hf_config})
    return merged


def _tasks(
    head: Head, modules: Modules | None, probe: dict[str, object], config: PoolerConfig
) -> dict[str, tuple[str, ...]]:
    if head == "token":
        seq_pooling(config, ("cls",))
        return {"token_classify": ALL_TOKENS}
    if head == "sequence":
        return {"classify": seq_pooling(config, ("cls",)), "token_classify": ALL_TOKENS}
    pooling = seq_pooling(config, ("cls",) if modules is None else modules.pooling)
    if head == "embedding":
        return {"embed": pooling, "token_embed": ALL_TOKENS}
    stated = str(probe.get("pooling", "mean")).upper()
    if stated not in SEQ_POOLING:
        raise UnsupportedModelError(f"the head's config.json: pooling={stated!r} is none of {list(SEQ_POOLING)}")
    return {"embed": pooling, "classify": seq_pooling(config, (SEQ_POOLING[stated],))}


def _max_model_len(files: ModelFiles, shape: EncoderShape) -> tuple[int, str]:
    """The length limit and the setting it comes from; never more than the position table has rows for."""
    limit, source = shape.max_model_len, f"max_position_embeddings={shape.max_positions}"
    stated = sentence_config(files.folder).get("max_seq_length")
    name = "max_seq_length"
    if not isinstance(stated, int):
        stated = read_json(files.folder / "tokenizer_config.json").get("model_max_length")
        name = "model_max_length"
    if isinstance(stated, int | float) and 0 < stated < min(limit, _NO_LIMIT):
        return int(stated), f"{name}={int(stated)}"
    return limit, source
