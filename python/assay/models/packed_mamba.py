"""Mamba's layers in packed sequences: their convolution and their recurrence stop where a sequence ends.

Jamba's, that is: a Mamba-1 mixer with norms on what its steps and states are made of. The mixer's own linear layers are
products of ours as everywhere; what lies between them is float32 also in a bfloat16 model.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay import ops
from assay.device import CPU
from assay.errors import UnsupportedModelError
from assay.layers import float32

if TYPE_CHECKING:
    from torch import Tensor

    from assay.device import Device
    from assay.models.packed_attention import PackedSequences

_FUSED = {"silu": "silu", "swish": "silu"}
"""config.json's activations that the convolution ends with, and what `ops` calls them; others are torch's."""
_MIXERS = {"jamba": "JambaMambaMixer"}
"""Their class by model_type."""


def has_mixers(config: Any) -> bool:
    """Whether models of a config carry a state from token to token in layers that can be packed."""
    return config.model_type in _MIXERS


def is_mixer(module: Any) -> bool:
    """Whether a module is such a layer."""
    return type(module).__name__ in _MIXERS.values()


def held_matrices(backbone: Any) -> set[str]:
    """Names of the modules whose matrices are computed with here: the mixers and their convolutions."""
    mixers = [name for name, part in backbone.named_modules() if is_mixer(part)]
    return {*mixers, *(f"{name}.conv1d" for name in mixers)}


@dataclass(frozen=True, slots=True)
class Recurrence:
    """The weights of one mixer that are no linear layers, float32 and in the layout of `ops`.

    conv_weight [width, num_channels], conv_bias [num_channels] or None; decay (the negative exponential of A_log)
    [state_size, num_channels]; skip [num_channels]; norms of the time step, b and c: weight and epsilon.
    """

    conv_weight: Tensor
    conv_bias: Tensor | None
    activation: str
    decay: Tensor
    skip: Tensor
    norms: tuple[tuple[Tensor, float], ...]

    @classmethod
    def take(cls, mixer: Any) -> Recurrence:
        """Of a loaded mixer, whose own parameters are freed."""
        convolution = mixer.conv1d
        taken = cls(
            conv_weight=float32(convolution.weight.detach().squeeze(1).T),
            conv_bias=None if convolution.bias is None else float32(convolution.bias.detach()),
            activation=_FUSED.get(mixer.activation, "none"),
            decay=-float32(mixer.A_log.detach().T).exp(),
            skip=float32(mixer.D.detach()),
            norms=tuple(
                (float32(norm.weight.detach()), norm.variance_epsilon)
                for norm in (mixer.dt_layernorm, mixer.b_layernorm, mixer.c_layernorm)
            ),
        )
        convolution.weight, convolution.bias, mixer.A_log, mixer.D = None, None, None, None
        return taken


def pack_mixers(backbone: Any, sequences: PackedSequences, device: Device = CPU) -> None:
    """Let every mixer inside run packed sequences; after `pack_products`."""
    for part in backbone.modules():
        if is_mixer(part):
            part.forward = functools.partial(_mix, part, Recurrence.take(part), sequences, device)


def _mix(
    mixer: Any,
    recurrence: Recurrence,
    sequences: PackedSequences,
    device: Device,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """hidden_states [1, num_tokens, hidden_size] -> the same shape and dtype."""
    assert sequences.batch is not None
    if attention_mask is not None:
        raise UnsupportedModelError(f"{type(mixer).__name__} uses a mask tensor, which packed sequences cannot have")
    cu_seqlens, size = sequences.batch.cu_seqlens, mixer.intermediate_size
    projected = mixer.in_proj(hidden_states[0].float())
    x = ops.causal_conv1d(
        projected[:, :size],
        recurrence.conv_weight,
        recurrence.conv_bias,
        cu_seqlens,
        activation=recurrence.activation,
        device=device,
    )
    if recurrence.activation == "none":
        x = mixer.act(x)
    parts = mixer.x_proj(x).split([mixer.time_step_rank, mixer.ssm_state_size, mixer.ssm_state_size], dim=1)
    time_step, b, c = (
        ops.rms_norm(part.contiguous(), *norm, device=device)
        for part, norm in zip(parts, recurrence.norms, strict=True)
    )
    steps = mixer.dt_proj(time_step)  # its bias is added there
    scanned = ops.selective_scan(
        x, steps, recurrence.decay, b, c, recurrence.skip, cu_seqlens, z=projected[:, size:], out=x, device=device
    )
    sequences.num_calls += 1
    out: Tensor = mixer.out_proj(scanned).to(hidden_states.dtype)
    return out.unsqueeze(0)
