"""Sizes and tensor names of decoders, and of the encoders that are built like them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from assay.errors import ConfigError, UnsupportedModelError
from assay.models.family import check_head_dim
from assay.models.padded_heads import padded_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from assay.hf_config import HFConfig
    from assay.models.rope import Rope

FULL, SLIDING = "full_attention", "sliding_attention"
"""transformers' names of a layer's kind of attention."""

UNLIMITED = (-1, -1)


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Sizes and switches of a stack of blocks, in the words of this package.

    head_dim: of the checkpoint. layer_types: FULL or SLIDING for each layer. ropes: the rotary table of each kind;
    empty where positions are learned. windows: (left, right) of each kind, -1 unlimited. softmax_scales: one for each
    layer. type_rows: rows of the token-type table, of which every token gets row 0. embedding_scale: what the word
    table is multiplied by. norm_offset: what is added to a stored norm weight. has_first_norm: the first layer has its
    attn_in_norm.
    """

    vocab_size: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_positions: int
    activation: str
    is_gated: bool
    norm: str
    epsilon: float
    layer_types: tuple[str, ...]
    softmax_scales: tuple[float, ...]
    ropes: Mapping[str, Rope] = field(default_factory=dict)
    windows: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    is_causal: bool = True
    soft_cap: float = 0.0
    has_qkv_bias: bool = False
    has_attn_out_bias: bool = False
    has_mlp_up_bias: bool = False
    has_mlp_down_bias: bool = False
    has_norm_bias: bool = False
    has_first_norm: bool = True
    type_rows: int = 0
    embedding_scale: float = 1.0
    norm_offset: float = 0.0

    def __post_init__(self) -> None:
        check_head_dim(self.head_dim, is_padded=not self.ropes)
        if self.num_kv_heads < 1 or self.num_heads < 1 or self.num_heads % self.num_kv_heads:
            raise UnsupportedModelError(
                f"num_attention_heads {self.num_heads} is not a multiple of num_key_value_heads {self.num_kv_heads}"
            )
        if not self.layer_types:
            raise ConfigError("config.json: a model needs at least one layer")
        if len({self.ropes[kind].long_from for kind in set(self.layer_types) & set(self.ropes)}) > 1:
            raise UnsupportedModelError(
                "config.json: rope_type 'longrope' is not supported in layers of one kind only, or by other lengths"
            )

    @property
    def num_layers(self) -> int:
        return len(self.layer_types)

    @property
    def padded_head_dim(self) -> int:
        """Of the loaded weights and the kernels: head_dim, with zeros behind it in models without rotary positions."""
        return self.head_dim if self.ropes else padded_size(self.head_dim)

    @property
    def qkv_sizes(self) -> tuple[int, int, int]:
        """Rows of the query, key and value projections as stored."""
        kv_size = self.num_kv_heads * self.head_dim
        return self.num_heads * self.head_dim, kv_size, kv_size

    @property
    def max_model_len(self) -> int:
        return self.max_positions

    @property
    def has_position_table(self) -> bool:
        return not self.ropes

    @property
    def position_offset(self) -> int:
        return 0

    @property
    def type_vocab_size(self) -> int:
        """Token types a request may name: none, even where the model has a table."""
        return 0


@dataclass(frozen=True, slots=True)
class LayerNames:
    """Tensor names of one layer, without .weight and .bias; `{}` is the layer's number. An absent part is None.

    qkv: one fused projection, or query, key and value. mlp_up: one projection, or gate and up; a fused one of a gated
    layer is halved, the gate first unless is_up_first. is_qkv_grouped: the fused one holds, for each key/value head,
    its query heads, then the key, then the value. is_conv1d: weights are stored [in_features, out_features].
    """

    qkv: tuple[str, ...]
    attn_out: str
    mlp_up: tuple[str, ...]
    mlp_down: str
    attn_in_norm: str | None = None
    attn_out_norm: str | None = None
    attn_residual_norm: str | None = None
    mlp_in_norm: str | None = None
    mlp_out_norm: str | None = None
    mlp_residual_norm: str | None = None
    q_norm: str | None = None
    k_norm: str | None = None
    is_up_first: bool = False
    is_qkv_grouped: bool = False
    is_conv1d: bool = False

    def norms(self, has_first_norm: bool) -> dict[str, str | None]:
        """The norms around attention and MLP by their place."""
        return {
            "attn_in_norm": self.attn_in_norm if has_first_norm else None,
            "attn_out_norm": self.attn_out_norm,
            "attn_residual_norm": self.attn_residual_norm,
            "mlp_in_norm": self.mlp_in_norm,
            "mlp_out_norm": self.mlp_out_norm,
            "mlp_residual_norm": self.mlp_residual_norm,
        }


@dataclass(frozen=True, slots=True)
class DecoderNames:
    """Tensor names of a backbone, without its prefix; tables and modules without .weight."""

    word: str
    layer: LayerNames
    position: str | None = None
    token_type: str | None = None
    embedding_norm: str | None = None
    final_norm: str | None = None


def layer_types(config: HFConfig, num_layers: int, default: tuple[str, ...]) -> tuple[str, ...]:
    """config.json's layer_types, else `default`; raises ConfigError or UnsupportedModelError for odd ones."""
    stated = config.get("layer_types")
    if stated is None:
        return default
    if not isinstance(stated, list) or len(stated) != num_layers:
        raise ConfigError(f"config.json: layer_types must list {num_layers} layers, got {stated!r}")
    unknown = sorted({str(kind) for kind in stated} - {FULL, SLIDING})
    if unknown:
        raise UnsupportedModelError(f"config.json: layer_types {unknown} are not supported; {FULL} and {SLIDING} are")
    return tuple(stated)


def sees_past_only(config: HFConfig) -> bool:
    """What is_causal says of a decoder, which transformers masks causally unless the key is there and false."""
    return bool(config.get("is_causal", True))


def every_nth(config: HFConfig, name: str, default: int) -> int:
    """A key that says which layers have full attention; raises ConfigError where it is no count."""
    count = default if config.get(name) is None else config.get(name)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ConfigError(f"config.json: {name} must be a positive number of layers, got {count!r}")
    return count


def sliding_windows(size: object, kinds: tuple[str, ...], is_causal: bool) -> dict[str, tuple[int, int]]:
    """(left, right) of the sliding layers, as transformers counts them.

    A causal layer sees `size` tokens, the current one included; a bidirectional one sees `size` tokens on either side.
    """
    if SLIDING not in kinds:
        return {}
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ConfigError(f"config.json: layers with {SLIDING} need a sliding_window, got {size!r}")
    return {SLIDING: (size - 1, 0) if is_causal else (size, size)}
