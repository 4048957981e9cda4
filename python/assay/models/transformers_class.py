"""Which transformers classes can run on ragged batches, told from the config and the class alone, without weights."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from assay.errors import ConfigError, UnsupportedModelError
from assay.models import packed_attention
from assay.models.packed_experts import is_experts, is_router
from assay.models.packed_mamba import has_mixers, held_matrices
from assay.models.packed_relative import attention_name, is_relative, token_convolution
from assay.models.transformers_head import head_modules, with_stated_bias

if TYPE_CHECKING:
    from assay.hf_config import HFConfig

Head = Literal["sequence", "token", "embedding"]

_SWITCHES = {
    "is_encoder_decoder": "is an encoder-decoder",
    "alibi": "biases attention by distance (ALiBi)",
    "attention_chunk_size": "attends in chunks",
    "token_dropout": "scales embeddings by how many tokens of an input are masked",
    "add_cross_attention": "attends to another sequence",
    "talking_head": "mixes the scores of attention heads",
    "quantization_config": "is quantised",
}
"""Keys of a config that, when set, rule packing out, and why."""
_POOLING = {"cls": "cls", "bos": "cls", "mean": "mean"}
"""config.json's classifier_pooling, and what `ops.pool` calls it."""
_LATE = "late"
"""Another value: the mean of every token's logits. The last layer is linear, so the mean may be taken before it."""


@dataclass(frozen=True, slots=True)
class TransformersShape:
    """Sizes of a transformers backbone, in the words of this package."""

    vocab_size: int
    hidden_size: int
    max_positions: int
    type_vocab_size: int
    position_offset: int
    has_position_table: bool
    is_causal: bool

    @property
    def max_model_len(self) -> int:
        """Tokens there are positions for."""
        return self.max_positions - self.position_offset


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of a model before its weights are read.

    model_class: the transformers class that `architecture` names; config: its config object. head: "embedding" where
    none is used; head_modules: names of the modules it is made of. pooling: the default mode of `pooler.pool`.
    is_late: every token goes through the head up to its last linear layer, and what is pooled comes of that.
    word_table: the tensor of the word embeddings, where the head is made of rows of a language model's.
    """

    architecture: str
    head: Head
    model_class: Any
    config: Any
    shape: TransformersShape
    pooling: str
    head_modules: tuple[str, ...]
    is_late: bool = False
    word_table: str = ""


def make_outline(hf_config: HFConfig, architecture: str, head: Head, is_chain: bool = False) -> Outline | None:
    """What transformers would build for `architecture`; None where it knows no such class.

    is_chain: the class may have a head of any kind, which is not used. Raises UnsupportedModelError that says why the
    model cannot run on ragged batches, or ConfigError.
    """
    import transformers

    found = getattr(transformers, architecture, None)
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        return None
    model_class: Any = found
    config = _config(hf_config, model_class)
    _check_config(config, architecture)
    _check_class(model_class, config, architecture)
    model_class = with_stated_bias(model_class, config)
    model = _on_meta(model_class, config)
    backbone = model.base_model
    if head == "embedding" and backbone is not model and not is_chain:
        return None
    _check_modules(backbone, architecture)
    shape = _shape(config, backbone, architecture)
    pooling = _pooling(config, model, shape, architecture, head)
    return Outline(
        architecture=architecture,
        head=head,
        model_class=model_class,
        config=config,
        shape=shape,
        pooling="mean" if pooling == _LATE else pooling,
        head_modules=() if head == "embedding" else tuple(head_modules(model, has_pooler=head == "sequence")),
        is_late=pooling == _LATE,
    )


def _config(hf_config: HFConfig, model_class: Any) -> Any:
    values = hf_config.to_dict()
    expected, stated = model_class.config_class.model_type, values.get("model_type")
    if stated != expected:
        raise ConfigError(f"config.json: model_type must be {expected!r} for {model_class.__name__}, got {stated!r}")
    try:
        return model_class.config_class.from_dict(values)
    except Exception as err:  # each config class checks its own keys, with exceptions of many kinds
        raise ConfigError(f"config.json: {model_class.config_class.__name__} cannot be made of it: {err}") from err


def _on_meta(model_class: Any, config: Any) -> Any:
    """The model without memory for its weights."""
    import torch

    packed_attention.register()
    try:
        with torch.device("meta"):
            return model_class._from_config(config, attn_implementation=attention_name(config))
    except Exception as err:  # sizes that do not fit together, found by the class in its own way
        raise ConfigError(f"config.json: {model_class.__name__} cannot be made of it: {err}") from err


def _check_config(config: Any, architecture: str) -> None:
    for key, reason in _SWITCHES.items():
        if getattr(config, key, None):
            raise UnsupportedModelError(f"{architecture} {reason} ({key}): it cannot run on packed sequences")
    parts = ", ".join(sorted(key for key in config.sub_configs if getattr(config, key, None) is not None))
    if parts:
        raise UnsupportedModelError(f"{architecture} is made of several models ({parts}); only text models can run")


def _check_class(model_class: Any, config: Any, architecture: str) -> None:
    if model_class._is_stateful and not has_mixers(config):
        raise UnsupportedModelError(
            f"{architecture} carries a state from token to token, which would leak from one packed sequence to the next"
        )
    if is_relative(config):
        return
    # Jamba's attention goes through the interface, though its class does not say so.
    supports_backend = model_class._supports_attention_backend or has_mixers(config)
    if not supports_backend or not model_class._can_set_attn_implementation():
        raise UnsupportedModelError(
            f"{architecture}: its attention does not go through transformers' attention interface, so it cannot be "
            f"replaced by attention over packed sequences"
        )


def _check_modules(backbone: Any, architecture: str) -> None:
    """Refuse layers that mix tokens other than by attention, and products that are not plain linear layers."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    for argument in ("input_ids", "position_ids"):
        if argument not in inspect.signature(backbone.forward).parameters:
            raise UnsupportedModelError(f"{type(backbone).__name__} takes no {argument}, which packed sequences need")
    convolution, held = token_convolution(backbone), held_matrices(backbone)
    for name, module in backbone.named_modules():
        matrices = [key for key, value in module.named_parameters(recurse=False) if value.ndim > 1]
        is_known = type(module) in (nn.Linear, Conv1D) or isinstance(module, nn.Embedding) or module is convolution
        if matrices and not (is_known or name in held or is_experts(module) or is_router(module)):
            raise UnsupportedModelError(
                f"{architecture}: {name} ({type(module).__name__}) multiplies by {matrices[0]} itself; only linear "
                f"layers, embeddings and experts may hold matrices (no convolutions or recurrences)"
            )


def _shape(config: Any, backbone: Any, architecture: str) -> TransformersShape:
    sizes: list[Any] = [getattr(config, key, None) for key in ("vocab_size", "hidden_size", "max_position_embeddings")]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise UnsupportedModelError(
            f"{architecture}: config.json must state vocab_size, hidden_size and max_position_embeddings, got {sizes}"
        )
    has_types = "token_type_ids" in inspect.signature(backbone.forward).parameters
    sizes[2] = min([sizes[2], *_short_lengths(config)])
    tables = _position_tables(backbone)
    paddings = [table.padding_idx for table in tables if table.padding_idx is not None]
    return TransformersShape(
        vocab_size=sizes[0],
        hidden_size=sizes[1],
        max_positions=sizes[2],
        type_vocab_size=getattr(config, "type_vocab_size", 0) if has_types else 0,
        position_offset=paddings[0] + 1 if paddings else 0,  # RoBERTa's rule keeps a row for padding
        has_position_table=bool(tables),
        is_causal=has_mixers(config) or any(getattr(module, "is_causal", False) for module in backbone.modules()),
    )


def _short_lengths(config: Any) -> list[int]:
    """Lengths up to which LongRoPE turns positions by the first of its two sets of angles.

    Past them transformers takes the second for every sequence of a batch, so here no sequence may be longer.
    """
    stated = getattr(config, "rope_parameters", None) or {}
    ropes = [stated, *(part for part in stated.values() if isinstance(part, dict))]
    return [rope["original_max_position_embeddings"] for rope in ropes if rope.get("rope_type") == "longrope"]


def _position_tables(backbone: Any) -> list[Any]:
    """Learned positions, whatever a class calls them."""
    from torch import nn

    names = ("position_embeddings", "embed_positions", "wpe")
    return [part for name, part in backbone.named_modules() if name.endswith(names) and isinstance(part, nn.Embedding)]


def _pooling(config: Any, model: Any, shape: TransformersShape, architecture: str, head: Head) -> str:
    """Where transformers' own classifier reads, else the last token of a causal backbone, else the first.

    Raises UnsupportedModelError for a classifier_pooling nobody knows.
    """
    if hasattr(model, "score") or shape.is_causal:
        return "last_token"
    stated = getattr(config, "classifier_pooling", "cls")
    if stated == _LATE:  # says what becomes of logits: there are none of a sequence without a head for one
        return _LATE if head == "sequence" else "cls"
    if stated not in _POOLING:
        known = ", ".join((*_POOLING, _LATE))
        raise UnsupportedModelError(f"{architecture}: config.json: classifier_pooling={stated!r} is none of {known}")
    return _POOLING[stated]
