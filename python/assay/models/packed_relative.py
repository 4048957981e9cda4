"""Architectures with attention code of their own, which transformers' attention interface cannot replace.

Their scores depend on the distance between two tokens. The module that computes them is replaced here; the rest of the
model is transformers' code, as everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.device import CPU
from assay.models.packed_attention import NAME
from assay.models.relative_convolution import is_packable, pack_convolution
from assay.models.relative_deberta import pack_deberta
from assay.models.relative_mpnet import pack_mpnet

if TYPE_CHECKING:
    from assay.device import Device
    from assay.models.packed_attention import PackedSequences

_PACKERS = {"deberta": pack_deberta, "deberta-v2": pack_deberta, "mpnet": pack_mpnet}
"""By model_type."""


def is_relative(config: Any) -> bool:
    """Whether models of a config are among them."""
    return config.model_type in _PACKERS


def attention_name(config: Any) -> str:
    """The attention a model is made with: ours, where transformers knows more than one."""
    return "eager" if is_relative(config) else NAME


def token_convolution(backbone: Any) -> Any:
    """The convolution behind the first layer of some DeBERTas, or None where there is none that can be packed."""
    layer = getattr(backbone.encoder, "conv", None) if is_relative(backbone.config) else None
    return layer.conv if layer is not None and is_packable(layer.conv) else None


def pack_relative(
    backbone: Any, sequences: PackedSequences, max_len: int, arithmetic: str, device: Device = CPU
) -> None:
    """Let such a backbone run packed sequences of at most max_len tokens; after `pack_products`."""
    if not is_relative(backbone.config):
        return
    _PACKERS[backbone.config.model_type](backbone, sequences, max_len)
    convolution = token_convolution(backbone)
    if convolution is not None:
        pack_convolution(convolution, sequences, arithmetic, device)
