"""MPNet's attention: a learned number per head and distance is added to the scores, the same in every layer."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.models.packed_attention import NAME
from assay.models.packed_products import one_thread
from assay.models.relative_attention import attend_each

if TYPE_CHECKING:
    from torch import Tensor

    from assay.models.packed_attention import PackedSequences


@dataclass(frozen=True, slots=True)
class DistanceBias:
    """values: [heads, 2 * max_len - 1] float32, for each distance (key minus query) from 1 - max_len on."""

    values: Tensor

    def add(self, scores: Tensor, q: Tensor, k: Tensor) -> None:
        """Add the bias to the scores [heads, length, length] of a sequence."""
        length, middle = scores.shape[1], self.values.shape[1] // 2
        values = self.values[:, middle - length + 1 : middle + length]
        scores += values.unfold(1, length, 1).flip(1)


def pack_mpnet(backbone: Any, sequences: PackedSequences, max_len: int) -> None:
    """Let every attention layer of an MPNet run sequence by sequence; its linear layers are packed already."""
    import torch

    encoder = backbone.encoder
    with torch.inference_mode(), one_thread():
        # for all distances at once: a logarithm may differ in its last bit from one length to another
        distances = torch.arange(1 - max_len, max_len, device=backbone.device)
        values = encoder.relative_attention_bias(encoder.relative_position_bucket(distances))
        bias = DistanceBias(values.T.float().contiguous())
    for layer in encoder.layer:
        module = layer.attention.attn
        module.forward = functools.partial(_forward, module, sequences, bias)
    backbone.config._attn_implementation = NAME  # its mask is the rule of one, not a tensor
    encoder.compute_position_bias = lambda hidden_states: None


def _forward(
    module: Any,
    sequences: PackedSequences,
    bias: DistanceBias,
    hidden_states: Tensor,
    attention_mask: Any = None,
    position_bias: None = None,
    output_attentions: bool = False,
    **_: Any,
) -> tuple[Tensor, None]:
    """What stands for the module's forward: hidden_states [1, num_tokens, hidden_size] -> the same shape."""
    heads = (module.num_attention_heads, module.attention_head_size)
    q, k, v = (layer(hidden_states[0]).unflatten(-1, heads) for layer in (module.q, module.k, module.v))
    out = attend_each(sequences, q, k, v, module.attention_head_size**-0.5, bias.add)
    return module.o(out).unsqueeze(0), None
