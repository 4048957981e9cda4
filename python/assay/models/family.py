"""What a family file states: its names, how its config is read, how its backbone loads, and its heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from assay.errors import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from assay.arena import Arena
    from assay.batch import RaggedBatch
    from assay.hf_config import HFConfig
    from assay.models.transformers_class import Outline
    from assay.weights import WeightMap

HIDDEN_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "gelu_quick",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""config.json names of the MLP activation, and what `ops` calls them."""

MAX_HEAD_DIM, HEAD_DIM_STEP = 256, 8
"""What the attention kernel takes."""

SEQUENCE, TOKEN, BACKBONE = "ForSequenceClassification", "ForTokenClassification", "Model"
"""What transformers puts behind a family's class name."""


class BackboneShape(Protocol):
    """What the rest of the package asks about a backbone's sizes."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def type_vocab_size(self) -> int: ...
    @property
    def position_offset(self) -> int: ...
    @property
    def max_positions(self) -> int: ...
    @property
    def max_model_len(self) -> int: ...
    @property
    def has_position_table(self) -> bool: ...
    @property
    def is_causal(self) -> bool: ...


class Backbone(Protocol):
    """A loaded backbone: ids in, hidden states out."""

    @property
    def shape(self) -> BackboneShape: ...

    def arena_size(self, num_tokens: int, num_seqs: int) -> int:
        """Bytes of arena one call needs for a batch of this size."""
        ...

    def positioned(self, batch: RaggedBatch) -> RaggedBatch:
        """A batch on the CPU with the positions that this backbone reads, which may not be those of `pack`."""
        ...

    def __call__(self, batch: RaggedBatch, arena: Arena, rows: Tensor | None = None) -> Tensor:
        """Hidden states [num_tokens, hidden_size] float32, or with rows int32 [num_seqs] only those.

        Of a `positioned` batch that lies, as arena and rows do, where the backbone computes.
        """
        ...


class LayeredBackbone(Backbone, Protocol):
    """A backbone whose layers can be exchanged for others of the same shape."""

    @property
    def layers(self) -> tuple[Any, ...]: ...

    def with_layers(self, layers: tuple[Any, ...]) -> LayeredBackbone:
        """The same backbone over other layers."""
        ...


ShapeT = TypeVar("ShapeT", bound=BackboneShape)
ShapeT_contra = TypeVar("ShapeT_contra", bound=BackboneShape, contravariant=True)


class BackboneLoader(Protocol[ShapeT_contra]):
    """How the tensors of a checkpoint become a backbone."""

    @property
    def word_table(self) -> str:
        """The tensor by which the backbone is found in a checkpoint."""
        ...

    def tensor_names(self, shape: ShapeT_contra) -> list[str]:
        """Every tensor of the backbone, without its prefix."""
        ...

    def transposed_tensors(self, shape: ShapeT_contra) -> list[str]:
        """Weights of linear layers that a checkpoint has as [in_features, out_features], without their prefix."""
        ...

    def load(
        self,
        weights: WeightMap,
        prefix: str,
        shape: ShapeT_contra,
        arithmetic: str,
        *,
        max_model_len: int,
        reads_one_token: bool,
    ) -> Backbone:
        """Take every tensor; no sequence will be longer than max_model_len tokens.

        reads_one_token: calls will be with rows, and the last layer may be laid out for that.
        """
        ...


@runtime_checkable
class Int8Loader(Protocol):
    """A loader that can also pack the layers of a backbone in int8."""

    def load_int8(
        self, weights: WeightMap, prefix: str, shape: Any, *, max_model_len: int, reads_one_token: bool
    ) -> LayeredBackbone:
        """As `BackboneLoader.load` does in bfloat16, but for the layers."""
        ...


@runtime_checkable
class TowerLoader(Protocol):
    """A loader of a model that has a tower beside its backbone, with a prefix of its own."""

    def tower_tensors(self, weights: WeightMap, shape: Any) -> list[str]:
        """Every tensor of the tower, as the checkpoint calls them."""
        ...


@dataclass(frozen=True, slots=True)
class HeadShape:
    """A classification head: [dense + activation [+ LayerNorm]] -> classifier, read as pooled rows or every token.

    Names are without .weight and .bias; `{}` is the backbone's prefix. classifier_has_bias None: where the checkpoint
    has one. num_labels: what the architecture fixes. use_activation: what a request that does not say gets.
    step_tag_id: the token whose rows a process reward model is read at. logit_mean: what is taken off every logit
    where the caller does not say.
    """

    classifier: str
    classifier_has_bias: bool | None = True
    dense: str | None = None
    dense_activation: str = "tanh"
    dense_has_bias: bool = True
    norm: str | None = None
    norm_has_bias: bool = True
    epsilon: float = 1e-5
    is_per_token: bool = False
    num_labels: int | None = None
    use_activation: bool = True
    step_tag_id: int | None = None
    logit_mean: float | None = None


def _as_stated(config: HFConfig, head: HeadShape) -> HeadShape:
    return head


def _unchanged(config: HFConfig) -> HFConfig:
    return config


def first_token(config: HFConfig) -> str:
    """Default pooling of encoders."""
    return "cls"


def last_token(config: HFConfig) -> str:
    """Default pooling of causal models."""
    return "last_token"


@dataclass(frozen=True, slots=True)
class Family(Generic[ShapeT]):
    """One row of the registry, or (backbone: an Outline) an architecture that transformers runs on our kernels.

    class_names: what transformers puts before ForSequenceClassification and the like. prefixes: where the backbone's
    tensors may lie (or without any). heads: by what follows the class name. prepare: the config as everything else
    reads it. configure_head: what config.json says about a head. pooling: the default of sequence tasks, from
    config.json; is_pooling_fixed: no request changes a classifier's. embed_pooling: the default of a bare backbone,
    where it is another. pretraining: what follows the class name where only the backbone is of use here. lm_head: the
    language-model head a classifier may be cut out of; is_tied: it is the word table where config.json does not say.
    other_heads: patterns of heads that a bare backbone may carry along. ignored: patterns every checkpoint may carry
    along. `{}` in a pattern is the backbone's prefix.
    """

    name: str
    class_names: tuple[str, ...]
    model_types: tuple[str, ...]
    prefixes: tuple[str, ...]
    shape: Callable[[HFConfig], ShapeT]
    backbone: BackboneLoader[ShapeT] | Outline
    heads: Mapping[str, HeadShape]
    prepare: Callable[[HFConfig], HFConfig] = field(default=_unchanged)
    configure_head: Callable[[HFConfig, HeadShape], HeadShape] = field(default=_as_stated)
    pooling: Callable[[HFConfig], str] = field(default=first_token)
    is_pooling_fixed: bool = False
    embed_pooling: Callable[[HFConfig], str] | None = None
    pretraining: tuple[str, ...] = ()
    lm_head: str | None = None
    is_tied: bool = False
    other_heads: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def refuse_keys(config: HFConfig, *names: str) -> None:
    """Raise UnsupportedModelError for config keys that change the computation in ways not implemented."""
    for name in ("quantization_config", *names):
        value: Any = config.get(name)
        if value is not None and value is not False:
            shown = "=true" if value is True else f"={value!r}" if isinstance(value, int | float | str) else ""
            raise UnsupportedModelError(f"config.json: {name}{shown} is not supported")


def checked_heads(num_heads: int, hidden_size: int, *, is_padded: bool = False) -> int:
    """`num_heads`, where it divides the hidden size into heads that `check_head_dim` takes."""
    if num_heads < 1 or hidden_size % num_heads:
        raise UnsupportedModelError(f"hidden_size {hidden_size} is not a multiple of num_attention_heads {num_heads}")
    shown = f" (hidden_size {hidden_size} / num_attention_heads {num_heads})"
    check_head_dim(hidden_size // num_heads, shown, is_padded=is_padded)
    return num_heads


def check_head_dim(head_dim: int, shown: str = "", *, is_padded: bool = False) -> None:
    """Raise UnsupportedModelError where the attention kernel does not take heads of that size; shown: where from.

    is_padded: it gets them filled up to the next size it takes (`padded_heads`).
    """
    if (head_dim % HEAD_DIM_STEP and not is_padded) or not 0 < head_dim <= MAX_HEAD_DIM:
        supported = "sizes" if is_padded else f"multiples of {HEAD_DIM_STEP}"
        raise UnsupportedModelError(
            f"head_dim {head_dim}{shown} is not supported; {supported} up to {MAX_HEAD_DIM} are"
        )


def hidden_activation(name: object) -> str:
    """The `ops` name of an MLP activation; raises UnsupportedModelError."""
    if not isinstance(name, str) or name not in HIDDEN_ACTIVATIONS:
        raise UnsupportedModelError(f"hidden_act {name!r} is not supported; supported: {', '.join(HIDDEN_ACTIVATIONS)}")
    return HIDDEN_ACTIVATIONS[name]
