"""An architecture only transformers knows, in the form of a family."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from assay.convert import asks_for_rows
from assay.errors import UnsupportedModelError
from assay.models.family import BACKBONE, SEQUENCE, TOKEN, Family, HeadShape, last_token
from assay.models.transformers_class import Head, make_outline

if TYPE_CHECKING:
    from assay.hf_config import HFConfig

_CONVERSION = ("method", "classifier_from_token", "is_original_qwen3_reranker")
_LM_HEADS = {"JambaForSequenceClassification": ("lm_head", "model.embed_tokens.weight")}
"""Architectures whose language model's logits are its head's products and no more; where head and word table lie."""
_RAW_SCORES = ("JambaForSequenceClassification",)
"""Reward models whose scores have no upper end: a request that does not say gets logits."""
_HEADS: dict[str, Head] = {SEQUENCE: "sequence", TOKEN: "token", BACKBONE: "embedding"}


def transformers_family(hf_config: HFConfig, name: str, is_chain: bool) -> tuple[str, Family[Any], str] | None:
    """The architecture, a family made for it and what follows its class name; None where transformers lacks it.

    is_chain: only the backbone of the class counts. Raises UnsupportedModelError where transformers has the model and
    it cannot run on ragged batches.
    """
    suffix = BACKBONE if is_chain else next((ending for ending in _HEADS if name.endswith(ending)), None)
    if not is_chain and name in _LM_HEADS and asks_for_rows(hf_config):
        return _of_language_model(hf_config, name)
    outline = None if suffix is None else make_outline(hf_config, name, _HEADS[suffix], is_chain)
    if outline is None or suffix is None:
        return None
    for key in _CONVERSION:
        if hf_config.get(key):
            raise UnsupportedModelError(
                f"{name} ({key}): a head made of rows of a language-model head needs one of this package's own families"
            )
    head = outline.head_modules[-1] if outline.head_modules else ""
    shape = HeadShape(classifier=head, is_per_token=suffix == TOKEN, use_activation=name not in _RAW_SCORES)
    heads = {} if suffix == BACKBONE else {suffix: shape}
    family = Family(
        name=name.removesuffix(suffix),
        class_names=(),
        model_types=(),
        prefixes=(),
        shape=lambda _: outline.shape,
        backbone=outline,
        heads=heads,
        pooling=lambda _: outline.pooling,
    )
    return name, family, suffix


def _of_language_model(hf_config: HFConfig, name: str) -> tuple[str, Family[Any], str]:
    """The same where the head is made of rows of the language model's: of the class only the backbone runs."""
    found = make_outline(hf_config, name, "embedding", is_chain=True)
    assert found is not None
    lm_head, word_table = _LM_HEADS[name]
    outline = dataclasses.replace(found, word_table=word_table)
    family = Family(
        name=name.removesuffix(SEQUENCE),
        class_names=(),
        model_types=(),
        prefixes=(),
        shape=lambda _: outline.shape,
        backbone=outline,
        heads={SEQUENCE: HeadShape(classifier="score")},
        pooling=last_token,
        lm_head=lm_head,
        is_tied=outline.config.tie_word_embeddings,
    )
    return name, family, SEQUENCE
