"""Which architectures there are, and which of them a config asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.errors import ConfigError, UnsupportedModelError
from assay.models import (
    bert,
    distilbert,
    electra,
    ernie,
    gemma,
    gemma2,
    gemma3,
    gpt2,
    gte,
    internlm2,
    jina_vl,
    llama,
    llama_bidirectional,
    mistral,
    modernbert,
    qwen2,
    qwen2_5_vl,
    qwen2_vl,
    qwen3,
    qwen3_vl,
    roberta,
)
from assay.models.family import BACKBONE
from assay.models.transformers_family import transformers_family

if TYPE_CHECKING:
    from assay.hf_config import HFConfig
    from assay.models.family import Family

FAMILIES: tuple[Family[Any], ...] = (
    bert.FAMILY,
    roberta.FAMILY,
    ernie.FAMILY,
    electra.FAMILY,
    distilbert.FAMILY,
    modernbert.FAMILY,
    gte.FAMILY,
    llama.FAMILY,
    llama_bidirectional.FAMILY,
    mistral.FAMILY,
    qwen2.FAMILY,
    qwen3.FAMILY,
    gemma.FAMILY,
    gemma2.FAMILY,
    gemma3.FAMILY,
    internlm2.FAMILY,
    gpt2.FAMILY,
    qwen2_vl.FAMILY,
    qwen2_5_vl.FAMILY,
    qwen3_vl.FAMILY,
    jina_vl.FAMILY,
)

ARCHITECTURES: dict[str, tuple[Family[Any], str]] = {
    name + suffix: (family, suffix)
    for family in FAMILIES
    for name in family.class_names
    for suffix in (*family.heads, BACKBONE)
}
"""Every architecture that answers a question by itself: its family, and what follows the family's class name."""

MODEL_IMPLS = ("auto", "vllm", "transformers")

_BACKBONES = {
    name + suffix: family for family in FAMILIES for name in family.class_names for suffix in family.pretraining
}
_MODEL_TYPES = {kind: family for family in FAMILIES for kind in family.model_types}


def resolve(hf_config: HFConfig, is_chain: bool, model_impl: str = "auto") -> tuple[str, Family[Any], str]:
    """The first architecture of the config that is known: its name, family and what follows the class name.

    is_chain: a sentence-transformers chain, which takes the bare backbone of any class. model_impl: "vllm" knows the
    families of this package only, "transformers" none of them, "auto" both in this order. Raises UnsupportedModelError
    or ConfigError.
    """
    if model_impl not in MODEL_IMPLS:
        raise ConfigError(f"model_impl must be one of {list(MODEL_IMPLS)}, got {model_impl!r}")
    names = hf_config.architectures
    found = None if model_impl == "transformers" else _own(hf_config, is_chain)
    if found is None and model_impl != "vllm":
        found = next(filter(None, (transformers_family(hf_config, name, is_chain) for name in names)), None)
    if found is None:
        reason = "" if "auto_map" not in hf_config else " (code from a model's repository is never executed)"
        raise UnsupportedModelError(
            f"Model architectures {names} are not supported for now{reason}. "
            f"Supported architectures: {sorted(ARCHITECTURES)}"
        )
    return found


def _own(hf_config: HFConfig, is_chain: bool) -> tuple[str, Family[Any], str] | None:
    names = hf_config.architectures
    for name in names:
        if is_chain and name in _BACKBONES:
            return name, _BACKBONES[name], BACKBONE
        if name in ARCHITECTURES:
            family, suffix = ARCHITECTURES[name]
            return name, family, BACKBONE if is_chain else suffix
    model_type = hf_config.get("model_type")
    if is_chain and not names and model_type in _MODEL_TYPES:
        family = _MODEL_TYPES[model_type]
        return f"{family.class_names[0]}{BACKBONE}", family, BACKBONE
    return None
