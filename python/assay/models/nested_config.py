"""The config of a model made of several: what is said of its language model, brought to the top."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.errors import ConfigError
from assay.hf_config import DEFAULT_NUM_LABELS, HFConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT, VISION = "text_config", "vision_config"
_OF_THE_WHOLE = ("architectures", "model_type", "transformers_version", "dtype", "torch_dtype")
"""Keys that both have, and that mean the whole model at the top."""
_LABELS = ("num_labels", "id2label", "label2id")
_TIED = "tie_word_embeddings"
_ROPES = ("rope_scaling", "rope_parameters")


def lifted(config: HFConfig) -> HFConfig:
    """A copy with the keys of text_config at the top, where they count more than what stands there already.

    Labels are the top's unless it has as many as transformers assumes, as in vLLM; word tables are tied where either
    says so. Files written before transformers 4.52 have no text_config, and everything at the top.
    """
    text = part_of(config, TEXT) if TEXT in config else HFConfig({})
    lifted = config.copy()
    lifted.update(dict(_kept(text)))
    if config.num_labels == DEFAULT_NUM_LABELS and text.num_labels != DEFAULT_NUM_LABELS:
        lifted.update({"id2label": text.id2label})
    if _TIED in config or _TIED in text:
        lifted.update({_TIED: bool(config.get(_TIED, False)) or bool(text.get(_TIED, False))})
    lifted.update({key: _plain_kind(lifted.get(key)) for key in _ROPES if key in lifted})
    return lifted


def part_of(config: HFConfig, name: str) -> HFConfig:
    """The config of one of the models; raises ConfigError where there is none."""
    values = config.get(name)
    if not isinstance(values, dict):
        raise ConfigError(f"config.json: {name} must be an object, got {values!r}")
    return HFConfig(values)


def _kept(text: HFConfig) -> Iterator[tuple[str, Any]]:
    for key in text:
        if key not in (*_OF_THE_WHOLE, *_LABELS, _TIED) and text.get(key) is not None:
            yield key, text.get(key)


def _plain_kind(rope: Any) -> Any:
    """Rotary parameters whose kind is "mrope": the frequencies are plain, what differs is said by mrope_section."""
    if not isinstance(rope, dict):
        return rope
    kinds = {key: "default" for key in ("type", "rope_type") if rope.get(key) == "mrope"}
    return {**rope, **kinds}
