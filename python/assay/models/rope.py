"""Rotary position tables: what config.json says about them, and their cosines and sines."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from assay.errors import ConfigError, UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor

    from assay.hf_config import HFConfig

DEFAULT_THETA = 10000.0
"""What transformers takes where config.json names no base."""

_NEEDED = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
    "ntk": ("factor",),
}
"""Keys each kind of scaling cannot do without. "dynamic" changes nothing up to max_position_embeddings, where every
input ends; "ntk" is the fixed and mixed NTK scaling of the GTE encoders, which transformers does not know."""

_KEEP_ORIGINAL_LENGTH = ("llama3", "yarn", "longrope")
_ORIGINAL_LENGTH = "original_max_position_embeddings"


@dataclass(frozen=True, slots=True)
class Rope:
    """One table: rotary_dim leading values of each head are rotated, pair (i, i + rotary_dim / 2) by one angle.

    parameters: the keys of config.json's rope_parameters (or rope_scaling), rope_theta included.
    """

    kind: str
    rotary_dim: int
    max_positions: int
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def long_from(self) -> int | None:
        """LongRoPE: longer sequences than this use the second half of the tables."""
        return self.parameters[_ORIGINAL_LENGTH] if self.kind == "longrope" else None

    def tables(self, num_positions: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
        """Cosines and sines [num_positions, rotary_dim / 2] float32; twice the rows where long_from is set."""
        import torch

        lengths = [None] if self.long_from is None else [None, self.long_from + 1]
        parts = [self._frequencies(length) for length in lengths]
        positions = torch.arange(num_positions, dtype=torch.float32, device=device)
        angles = torch.cat([torch.outer(positions, frequencies.to(device)) for frequencies, _ in parts])
        scale = parts[0][1]
        return angles.cos() * scale, angles.sin() * scale

    def _frequencies(self, seqlen: int | None) -> tuple[Tensor, float]:
        """Angle per position of each pair [rotary_dim / 2] float32, and the factor on cosines and sines."""
        if self.kind == "default":
            return _plain(self.parameters["rope_theta"], self.rotary_dim), 1.0
        if self.kind == "ntk":
            return _ntk(self.parameters, self.rotary_dim), 1.0
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        config: Any = SimpleNamespace(
            rope_parameters=dict(self.parameters),
            head_dim=self.rotary_dim,
            max_position_embeddings=self.max_positions,
            hidden_size=self.rotary_dim,
            num_attention_heads=1,
            standardize_rope_params=lambda: None,
        )
        frequencies, scale = ROPE_INIT_FUNCTIONS[self.kind](config, None, seq_len=seqlen)
        return frequencies, float(scale)


def _plain(theta: float, rotary_dim: int) -> Tensor:
    import torch

    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
    frequencies: Tensor = 1.0 / (theta**exponents)
    return frequencies


def _ntk(parameters: dict[str, Any], rotary_dim: int) -> Tensor:
    """Su Jianlin's fixed NTK scaling, or its mixed form where `mixed_b` is given."""
    import torch

    factor, mixed_b, theta = parameters["factor"], parameters.get("mixed_b"), parameters["rope_theta"]
    if mixed_b is None:
        fixed: Tensor = _plain(theta * factor, rotary_dim) / factor ** (2 / rotary_dim)
        return fixed
    slope = math.log(factor) / (rotary_dim / 2) ** mixed_b
    pairs = torch.arange(1, rotary_dim // 2 + 1, dtype=torch.float32)
    mixed: Tensor = _plain(theta, rotary_dim) / (slope * pairs**mixed_b).exp()
    return mixed


def read_rope(config: HFConfig, rotary_dim: int, max_positions: int) -> Rope:
    """The one table of a model: rope_parameters of transformers 5, or rope_scaling and rope_theta of older files."""
    stated = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if isinstance(stated, dict):
        if any(isinstance(value, dict) for value in stated.values()):
            raise UnsupportedModelError("config.json: rope_parameters by kind of layer are not supported here")
        if config.get(_ORIGINAL_LENGTH):
            stated = {**stated, _ORIGINAL_LENGTH: config.get(_ORIGINAL_LENGTH)}
    theta = config.get("rope_theta")
    return make_rope(config, stated, DEFAULT_THETA if theta is None else theta, rotary_dim, max_positions)


def stated_by_kind(config: HFConfig, kinds: tuple[str, ...], scaled: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """What rope_parameters says of each kind of layer, for `scaled` ones with what the older rope_scaling says.

    Raises ConfigError for parameters that name no kind, and UnsupportedModelError for a rope_scaling that would do
    nothing in transformers, which looks for its rope_type alone in these models.
    """
    stated, scaling = config.get("rope_parameters") or {}, config.get("rope_scaling") or {}
    if not isinstance(stated, dict) or (stated and not set(kinds) & stated.keys()):
        raise ConfigError(f"config.json: rope_parameters must have an object for each of {kinds}, got {stated!r}")
    if not isinstance(scaling, dict):
        raise ConfigError(f"config.json: rope_scaling must be an object, got {scaling!r}")
    if "rope_type" not in scaling and scaling.get("type", "default") != "default":
        raise UnsupportedModelError(
            f"config.json: rope_scaling with type={scaling['type']!r} has no effect in transformers here: "
            f"call the key rope_type"
        )
    return {kind: {**(stated.get(kind) or {}), **(scaling if kind in scaled else {})} for kind in kinds}


def make_rope(config: HFConfig, stated: Any, theta: float, rotary_dim: int, max_positions: int) -> Rope:
    """A table from its parameters, `theta` where they name none; raises UnsupportedModelError or ConfigError."""
    if not isinstance(stated, dict):
        raise ConfigError(f"config.json: rope_parameters must be an object, got {stated!r}")
    parameters = {"rope_theta": theta, **{key: value for key, value in stated.items() if value is not None}}
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in _NEEDED:
        raise UnsupportedModelError(f"config.json: rope_type {kind!r} is not supported; {', '.join(_NEEDED)} are")
    partial = config.get("partial_rotary_factor", parameters.get("partial_rotary_factor"))
    if partial not in (None, 1, 1.0):
        raise UnsupportedModelError(f"config.json: partial_rotary_factor={partial!r} is not supported here")
    missing = [key for key in _NEEDED[kind] if key not in parameters]
    if missing:
        raise ConfigError(f"config.json: rope_type {kind!r} needs {', '.join(missing)}")
    if kind in _KEEP_ORIGINAL_LENGTH:
        parameters.setdefault(_ORIGINAL_LENGTH, max_positions)
    if rotary_dim < 2 or rotary_dim % 2:
        raise ConfigError(f"config.json: a rotated width of {rotary_dim} is not a positive even number")
    return Rope(kind, rotary_dim, max_positions, parameters)
