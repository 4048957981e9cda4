"""What a PEFT adapter's adapter_config.json says of its arithmetic; what cannot be followed is refused by its key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from assay.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

_REFUSED: Final = {
    "use_dora": "assay does not yet support DoRA.",
    "lora_bias": "assay does not support LoRA bias (lora_bias).",
    "alora_invocation_tokens": "assay does not support Activated LoRA (aLoRA).",
    "layer_replication": "assay does not support layer_replication.",
    "use_qalora": "assay does not support QALoRA (use_qalora).",
    "use_bdlora": "assay does not support BD-LoRA (use_bdlora).",
    "trainable_token_indices": "assay does not support trainable_token_indices.",
    "target_parameters": "assay does not support LoRA on parameters (target_parameters).",
    "arrow_config": "assay does not support Arrow (arrow_config).",
    "kasa_config": "assay does not support KaSA (kasa_config).",
    "monteclora_config": "assay does not support MonteCLoRA (monteclora_config).",
}
"""Keys that, where they are set, change what an adapter computes."""
_INITS: Final = (True, False, "gaussian", "eva", "orthogonal")
"""Ways to begin training that leave the base model's weights alone."""


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """rank and alpha are those of modules that no pattern matches; a pattern is a regular expression for the end of a
    module's name. task_type: what PEFT was told the model is for ("SEQ_CLS", "TOKEN_CLS", ...).

    fan_in_fan_out is not read: PEFT saves what it was for the last module it wrapped.
    """

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    is_rank_stabilized: bool
    task_type: str = ""

    @classmethod
    def read(cls, values: Mapping[str, Any], path: Path) -> LoraConfig:
        """From the keys of the file at `path`; raises ConfigError."""
        kind = values.get("peft_type")
        if kind != "LORA":
            raise ConfigError(f"{path}: peft_type {kind!r} is not supported; 'LORA' is")
        for key, message in _REFUSED.items():
            if values.get(key):
                raise ConfigError(f"{path}: {message}")
        if values.get("bias", "none") != "none":
            raise ConfigError(f"{path}: Adapter bias is not supported.")
        init = values.get("init_lora_weights", True)
        if init not in _INITS:
            raise ConfigError(
                f"{path}: assay does not support init_lora_weights={init!r}. Inits such as PiSSA, OLoRA, CorDA and "
                f"LoftQ modify the base model weights when PEFT loads the adapter."
            )
        return cls(
            rank=_count(values.get("r"), "r", path),
            alpha=_number(values.get("lora_alpha"), "lora_alpha", path),
            rank_pattern={
                key: _count(value, f"rank_pattern[{key!r}]", path)
                for key, value in _pattern(values, "rank_pattern", path).items()
            },
            alpha_pattern={
                key: _number(value, f"alpha_pattern[{key!r}]", path)
                for key, value in _pattern(values, "alpha_pattern", path).items()
            },
            is_rank_stabilized=bool(values.get("use_rslora")),
            task_type=str(values.get("task_type") or ""),
        )

    @property
    def largest_rank(self) -> int:
        """Of any module."""
        return max([self.rank, *self.rank_pattern.values()])

    def rank_of(self, module: str) -> int:
        """The rank of one module's matrices."""
        return self.rank_pattern.get(_matching(self.rank_pattern, module), self.rank)

    def scale_of(self, module: str) -> float:
        """What the product of its two matrices is multiplied by: alpha / rank, or by rank's root (rsLoRA)."""
        alpha, rank = self.alpha_pattern.get(_matching(self.alpha_pattern, module), self.alpha), self.rank_of(module)
        return float(alpha / rank**0.5) if self.is_rank_stabilized else alpha / rank


def _matching(pattern: Mapping[str, Any], module: str) -> str:
    """The first key that matches the end of the name, as PEFT looks it up; the name itself where none does."""
    return next((key for key in pattern if re.fullmatch(rf"(.*\.)?({key})", module)), module)


def _pattern(values: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    pattern = values.get(name) or {}
    if not isinstance(pattern, dict):
        raise ConfigError(f"{path}: {name} must map names of modules to numbers, got {pattern!r}")
    for key in pattern:
        try:
            re.compile(key)
        except re.error as err:
            raise ConfigError(f"{path}: {name}: {key!r} is not a regular expression: {err}") from err
    return pattern


def _count(value: Any, name: str, path: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{path}: {name} must be a positive integer, got {value!r}")
    return value


def _number(value: Any, name: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{path}: {name} must be a number, got {value!r}")
    return float(value)
