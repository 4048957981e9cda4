"""A causal language model as a classifier: its head is `score`, or a few rows of the language-model head.

Only the rows a head is made of are ever read: nothing of the size of the vocabulary is multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from assay.errors import ConfigError, UnsupportedModelError, WeightsError
from assay.head_methods import METHODS, TWO_WAY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from assay.hf_config import HFConfig
    from assay.weights import WeightMap

_GEMMA2_SOFT_CAP: Final = 30.0
"""What transformers takes for final_logit_softcapping where a Gemma 2 config does not say."""
_ORIGINAL: Final = "is_original_qwen3_reranker"
_ORIGINAL_ARCHITECTURES: Final = ("Qwen3ForSequenceClassification", "Qwen3VLForSequenceClassification")


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """Where a converted model's classifier comes from.

    source "score": the checkpoint has score.weight [num_labels, hidden_size] (and may have score.bias).
    source "lm_head": made of the language-model head's rows `token_ids`. from_2_way_softmax takes [false, true] and
    gives the one row true - false, whose sigmoid is the softmax over the two; no_post_processing takes the rows as
    they are.
    """

    source: Literal["score", "lm_head"]
    method: str | None
    token_ids: tuple[int, ...]
    num_labels: int

    def applied(self, hf_config: HFConfig) -> HFConfig:
        """The config as the conversion leaves it: with this label count, and pairs joined without a separator."""
        if self.source == "score":
            return hf_config
        config = hf_config.copy()
        changes: dict[str, object] = {"num_labels": self.num_labels}
        if config.get("use_sep_token") is None:
            changes["use_sep_token"] = False
        config.update(changes)
        return config


def asks_for_rows(hf_config: HFConfig) -> bool:
    """Whether the config wants a head made of rows of a language-model head."""
    return hf_config.get("method") in METHODS or bool(hf_config.get(_ORIGINAL))


def refuse_rows(hf_config: HFConfig, architecture: str) -> None:
    """Raise ConfigError where such a head is asked of an architecture that has no language-model head."""
    if asks_for_rows(hf_config):
        raise ConfigError(
            f"method and classifier_from_token make a head of a language model's; {architecture} has none: "
            f"leave them out of hf_overrides"
        )


def plan_head(
    hf_config: HFConfig, architecture: str, tokenizer_ids: Callable[[Sequence[str]], Sequence[int]]
) -> HeadPlan:
    """Read the config's `method`, `classifier_from_token` and `is_original_qwen3_reranker`.

    Raises ConfigError where they contradict each other or the architecture, or a token is none of the tokenizer's.
    tokenizer_ids gives the id of each token (`Vocabulary.ids`); it is asked only where the head is made of rows.
    """
    tokens, method = _tokens(hf_config), hf_config.get("method")
    if hf_config.get(_ORIGINAL):
        method = _original_method(architecture, tokens, method)
    if method is None:
        return HeadPlan("score", None, (), hf_config.num_labels)
    if method not in METHODS:
        raise ConfigError(f"method {method!r} not supported: use {' or '.join(METHODS)}")
    _refuse_soft_cap(hf_config)
    if not tokens:
        raise ConfigError(f"method {method!r} needs classifier_from_token: the tokens whose rows make the head")
    if method == TWO_WAY and len(tokens) != 2:
        raise ConfigError(f"method {TWO_WAY!r} takes 2 tokens in classifier_from_token, [false, true], got {tokens}")
    try:
        token_ids = tuple(tokenizer_ids(tokens))
    except ConfigError as err:
        raise ConfigError(f"classifier_from_token: {err}") from err
    return HeadPlan("lm_head", method, token_ids, 1 if method == TWO_WAY else len(tokens))


def _refuse_soft_cap(hf_config: HFConfig) -> None:
    """Raise UnsupportedModelError where a language model's logits are more than its head's products."""
    default = _GEMMA2_SOFT_CAP if hf_config.get("model_type") == "gemma2" else None
    soft_cap = hf_config.get("final_logit_softcapping", default)
    if soft_cap is not None:
        raise UnsupportedModelError(
            f"config.json: final_logit_softcapping={soft_cap!r} bends the logits of the language-model head, which a "
            f"head made of its rows does not do: scores would not be transformers'. To score by the logits as they "
            f"are set it to None in hf_overrides"
        )


def _tokens(hf_config: HFConfig) -> list[str]:
    tokens = hf_config.get("classifier_from_token")
    if tokens is None:
        return []
    if not isinstance(tokens, list | tuple) or not all(isinstance(token, str) for token in tokens):
        raise ConfigError(f"classifier_from_token must be a list of tokens, got {tokens!r}")
    return list(tokens)


def _original_method(architecture: str, tokens: list[str], method: str | None) -> str:
    if architecture not in _ORIGINAL_ARCHITECTURES:
        raise ConfigError(f"{_ORIGINAL} is for {' and '.join(_ORIGINAL_ARCHITECTURES)}, got {architecture}")
    if len(tokens) != 2:
        raise ConfigError(
            f"{_ORIGINAL} needs exactly 2 entries in classifier_from_token, [no, yes], got {tokens}. "
            f"Try loading the original Qwen3 Reranker?, see: https://github.com/vllm-project/vllm/tree/main/examples/"
            f"pooling/score/qwen3_reranker_offline.py"
        )
    if method not in (None, TWO_WAY):
        raise ConfigError(f"{_ORIGINAL} means method {TWO_WAY!r}, got method {method!r}")
    return TWO_WAY


def lm_head_rows(weights: WeightMap, names: Sequence[str], plan: HeadPlan) -> tuple[Tensor, Tensor | None]:
    """The classifier's weight [num_labels, hidden_size] and bias [num_labels] or None, both float32.

    names: where the language-model head may lie, the first that is there is used ("lm_head.weight", then the word
    table, for tied embeddings). Raises WeightsError where none is there or it has too few rows.
    """
    name = next((name for name in names if name in weights), None)
    if name is None:
        raise WeightsError(f"{weights.source}: no language-model head: none of {', '.join(names)} is in the checkpoint")
    rows = _combined(weights.take_rows(name, plan.token_ids).float(), plan)
    bias_name = name.removesuffix("weight") + "bias"
    if bias_name not in weights:
        return rows, None
    return rows, _combined(weights.take_rows(bias_name, plan.token_ids).float(), plan)


def _combined(rows: Tensor, plan: HeadPlan) -> Tensor:
    return rows[1:2] - rows[0:1] if plan.method == TWO_WAY else rows
