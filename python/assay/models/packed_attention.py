"""transformers' attention interface on ragged batches: sequences end to end in one row, and no mask tensor.

A transformers model asks two registered functions: one makes the attention mask, the other computes attention. Ours
makes no mask: it keeps the rule transformers would have filled the mask with, and reads off that rule how far a token
sees to either side. So the rule that counts is transformers' own, whatever flags a module carries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from assay import ops
from assay.device import CPU
from assay.errors import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from assay.batch import RaggedBatch
    from assay.device import Device

NAME = "assay_packed"
"""What transformers knows our functions by."""
SEQUENCES = "packed_sequences"
"""Attribute of every submodule: the `PackedSequences` of the model it belongs to."""
_UNLIMITED = -1
_MAX_PROBES = 33
"""Rows of the mask that are looked at."""
_BIASES = ("s_aux", "position_bias", "alibi", "attn_bias")
"""Arguments that would add something to the scores, which the kernel does not do."""


@dataclass(slots=True)
class PackedSequences:
    """Which sequences the forward pass in progress runs on; one object per model, shared by its modules."""

    device: Device = CPU
    batch: RaggedBatch | None = None
    num_calls: int = 0
    """Layers over sequences, attention or recurrence, that ran since `start`."""

    def start(self, batch: RaggedBatch) -> None:
        """A forward pass on `batch` begins."""
        self.batch, self.num_calls = batch, 0

    def longest(self) -> tuple[int, int]:
        """First token and length of a longest sequence."""
        assert self.batch is not None
        lengths = self.batch.seqlens()
        index = lengths.index(max(lengths))
        return sum(lengths[:index]), lengths[index]


@dataclass(slots=True)
class MaskRule:
    """What stands where a mask tensor would: is_visible(batch, head, query, key) on index tensors -> bool tensor."""

    is_visible: Callable[..., Tensor]
    _window: tuple[int, int] | None = field(default=None)

    def window(self, sequences: PackedSequences) -> tuple[int, int]:
        """How many tokens to the left and to the right are seen, -1 for all; asked once per forward pass.

        Raises UnsupportedModelError for a rule that is no such window.
        """
        if self._window is None:
            self._window = _window_of(self.is_visible, *sequences.longest(), sequences.device.torch_device)
        return self._window


def register() -> None:
    """Make both functions known to transformers under NAME; harmless when repeated."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, mask_rule)


def mask_rule(
    *, mask_function: Callable[..., Tensor], attention_mask: Tensor | None = None, use_vmap: bool = False, **_: Any
) -> MaskRule:
    """transformers' mask function: the rule itself."""
    if use_vmap or not (attention_mask is None or bool(attention_mask.all())):
        raise UnsupportedModelError("the model needs an attention mask of its own, which packed sequences cannot have")
    return MaskRule(mask_function)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: query, key, value [1, heads, num_tokens, head_dim] -> [1, num_tokens, heads,
    head_dim]. No mask means that every token of a sequence sees every other.
    """
    sequences: PackedSequences | None = getattr(module, SEQUENCES, None)
    batch = None if sequences is None else sequences.batch
    if sequences is None or batch is None:
        raise UnsupportedModelError(f"{type(module).__name__} was called outside a packed forward pass")
    window = (_UNLIMITED, _UNLIMITED)
    if isinstance(attention_mask, MaskRule):
        window = attention_mask.window(sequences)
    elif attention_mask is not None:
        raise UnsupportedModelError(f"{type(module).__name__} uses a mask tensor, which packed sequences cannot have")
    for name in _BIASES:
        if kwargs.get(name) is not None:
            raise UnsupportedModelError(f"{type(module).__name__} adds {name} to the attention scores")
    num_tokens = batch.num_tokens
    if query.shape[0] != 1 or query.shape[2] != num_tokens or key.shape[2] != num_tokens:
        raise UnsupportedModelError(
            f"{type(module).__name__} attends from {list(query.shape)} to {list(key.shape)}: "
            f"one row of {num_tokens} tokens was expected"
        )
    out = ops.attention_varlen(
        _token_major(query),
        _token_major(key),
        _token_major(value),
        batch.cu_seqlens,
        batch.max_seqlen,
        softmax_scale=scaling,
        window_size=window,
        soft_cap=softcap or 0.0,
        device=sequences.device,
    )
    sequences.num_calls += 1
    return out.unsqueeze(0), None


def _token_major(tensor: Tensor) -> Tensor:
    """[1, heads, num_tokens, head_dim] -> [num_tokens, heads, head_dim], copied where a token's heads lie apart."""
    rows = tensor[0].transpose(0, 1)
    head_dim = rows.shape[2]
    return rows if rows.stride()[1:] == (head_dim, 1) else rows.contiguous()


def _window_of(is_visible: Callable[..., Tensor], first: int, length: int, place: str = "cpu") -> tuple[int, int]:
    """The window of a rule over the `length` tokens from `first` on, checked at rows spread over all of them.

    place: where the rule's own tensors lie. On a GPU this waits for it.
    """
    import torch

    rows = torch.linspace(0, length - 1, min(length, _MAX_PROBES)).round().long()
    keys = torch.arange(length)
    zero = torch.zeros((1, 1, 1, 1), dtype=torch.long, device=place)
    queries, all_keys = (rows.view(1, 1, -1, 1) + first).to(place), (keys.view(1, 1, 1, -1) + first).to(place)
    seen = is_visible(zero, zero, queries, all_keys).expand(1, 1, len(rows), length)[0, 0].cpu()
    left = int((rows - seen.int().argmax(dim=1)).max())
    right = int((length - 1 - seen.flip(1).int().argmax(dim=1) - rows).max())
    distance = rows.unsqueeze(1) - keys
    if not torch.equal(seen, (distance <= left) & (distance >= -right)):
        raise UnsupportedModelError("the model's attention mask is not a window around each token")
    return (
        _UNLIMITED if left >= length - 1 else left,
        _UNLIMITED if right >= length - 1 and right > 0 else right,
    )
