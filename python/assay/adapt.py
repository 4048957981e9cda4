"""What a checkpoint is run as: its recipe, and the caller's `runner` and `convert`, brought into the config.

After this the registry sees one kind of classifier, `XForSequenceClassification`, whatever the files call themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from assay.errors import ConfigError, UnsupportedModelError
from assay.recipes import recognise
from assay.vocabulary import Vocabulary

if TYPE_CHECKING:
    from assay.config import PoolerConfig
    from assay.files import ModelFiles
    from assay.hf_config import HFConfig
    from assay.recipes import Match, Recipe

GENERATIVE: Final = ("ForCausalLM", "ForConditionalGeneration", "ChatModel", "LMHeadModel")
"""Endings of the architectures that generate text; their head is no classifier."""

_CLASSIFIER: Final = "ForSequenceClassification"
_BACKBONE: Final = "Model"
_NO_CONVERSION: Final = (
    "This model does not support `--runner pooling`. "
    "You can pass `--convert <embed|classify> to adapt it into a pooling model."
)
_SIGMOID: Final = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}


@dataclass(frozen=True, slots=True)
class Adapted:
    """The configs to load with, and the recipe that fits the model."""

    hf_config: HFConfig
    pooler_config: PoolerConfig
    match: Match | None


def adapt(
    files: ModelFiles, hf_config: HFConfig, pooler_config: PoolerConfig, *, runner: str = "auto", convert: str = "auto"
) -> Adapted:
    """Bring the recipe, `runner` and `convert` into a copy of the config; keys that are set always win.

    Raises UnsupportedModelError for a language model that nothing says how to score with, ConfigError where the
    settings contradict each other.
    """
    architecture = next(iter(hf_config.architectures), "")
    suffix = next((ending for ending in GENERATIVE if architecture.endswith(ending)), None)
    if suffix is not None and convert in ("auto", "classify") and _judges_steps(pooler_config):
        return _step_judge(files, hf_config, pooler_config, architecture.removesuffix(suffix) + _CLASSIFIER)
    match = recognise(files, hf_config) if convert in ("auto", "classify") else None
    if match is not None:
        return Adapted(_cooked(hf_config, match.recipe, converts=match.converts), pooler_config, match)
    if suffix is not None and not (files.folder / "modules.json").is_file():
        hf_config = _renamed(hf_config, _target(hf_config, architecture, suffix, runner, convert))
    elif suffix is None and convert == "classify" and architecture.endswith(_BACKBONE):
        hf_config = _renamed(hf_config, architecture.removesuffix(_BACKBONE) + _CLASSIFIER)
    return Adapted(hf_config, pooler_config, None)


def _judges_steps(pooler_config: PoolerConfig) -> bool:
    return pooler_config.tok_pooling_type == "STEP" and pooler_config.returned_token_ids is not None


def _step_judge(files: ModelFiles, hf_config: HFConfig, pooler_config: PoolerConfig, architecture: str) -> Adapted:
    """A language model that judges each step by its logits of returned_token_ids: those rows are the head.

    The columns are then the labels, and the task is that of every token.
    """
    vocabulary = Vocabulary(files.tokenizer_folder or files.folder)
    token_ids = pooler_config.returned_token_ids or []
    tokens = [vocabulary.token(token_id) for token_id in token_ids]
    if not tokens or None in tokens:
        raise ConfigError(f"returned_token_ids must be ids of the tokenizer, got {token_ids}")
    config = _renamed(hf_config, architecture)
    config.update({"classifier_from_token": tokens, "method": "no_post_processing"})
    task = pooler_config.task or "token_classify"
    return Adapted(config, pooler_config.replace(task=task, returned_token_ids=None), None)


def _cooked(hf_config: HFConfig, recipe: Recipe, *, converts: bool) -> HFConfig:
    """The config with what the recipe says of the head, where the checkpoint does not have it already."""
    if not recipe.label_tokens:
        return hf_config
    config = _renamed(hf_config, recipe.classifier) if converts else hf_config.copy()
    if config.get("classifier_from_token") is None:
        config.update({"classifier_from_token": list(recipe.label_tokens)})
    if config.get("method") is None and not config.get("is_original_qwen3_reranker"):
        config.update({"method": recipe.method})
    if recipe.name != "saved" and config.get("sentence_transformers") is None:
        # the score of the known ones is a probability, whatever activation a later save of the folder declares
        config.update({"sentence_transformers": dict(_SIGMOID)})
    if recipe.template is None and config.get("use_sep_token") is None:
        config.update({"use_sep_token": True})
    return config


def _target(hf_config: HFConfig, architecture: str, suffix: str, runner: str, convert: str) -> str:
    """The architecture a language model without a recipe is run as."""
    base = architecture.removesuffix(suffix)
    names_head = hf_config.get("method") is not None or bool(hf_config.get("is_original_qwen3_reranker"))
    if convert == "classify" or (convert == "auto" and names_head):
        return base + _CLASSIFIER
    if convert == "embed" or (convert == "auto" and runner == "pooling"):
        return base + _BACKBONE
    if runner == "pooling":
        raise ConfigError(_NO_CONVERSION)
    has_tokens = hf_config.get("classifier_from_token") is not None
    missing = "method" if has_tokens else "classifier_from_token and method"
    raise UnsupportedModelError(
        f"{architecture} is a language model with no classification head, and no recipe fits its config and tokenizer. "
        f"To score with its language-model head set {missing} in hf_overrides (for instance "
        f"{{'classifier_from_token': ['no', 'yes'], 'method': 'from_2_way_softmax'}}); where the checkpoint has "
        f"score.weight pass convert='classify'; for embeddings pass runner='pooling'"
    )


def _renamed(hf_config: HFConfig, architecture: str) -> HFConfig:
    config = hf_config.copy()
    config.update({"architectures": [architecture]})
    return config
