"""Frozen settings: how results are pooled (`PoolerConfig`) and how the engine runs (`EngineConfig`)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import InitVar, dataclass
from typing import Any, Final

from assay.errors import ConfigError, ValidationError
from assay.tasks import REMOVED_PARAMETER, REMOVED_TASKS

SEQ_POOLING_TYPES: Final = ("CLS", "LAST", "MEAN")
TOK_POOLING_TYPES: Final = ("ALL", "STEP")
SCHEDULING_POLICIES: Final = ("fcfs", "priority")
NAMED_ACTIVATIONS: Final = ("sigmoid", "softmax", "identity")
_UNSET: Any = object()


def _pooling_type(name: str, value: str | None, choices: tuple[str, ...]) -> str | None:
    """The upper-case spelling of a pooling type, checked against its choices."""
    if value is None:
        return None
    if not isinstance(value, str) or value.upper() not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value.upper()


def _number(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number, got {value!r}")
    return float(value)


@dataclass(frozen=True)
class PoolerConfig:
    """How hidden states become results.

    task: the one active pooling task; None picks the first the model offers.
    seq_pooling_type "CLS" | "LAST" | "MEAN", tok_pooling_type "ALL" | "STEP"; pooling_type sets whichever fits.
    use_activation: default for requests that leave it None.
    logit_mean, logit_sigma: logits become (logits - mean) / sigma, with or without the activation.
    activation: ours; overrides what the checkpoint declares. "sigmoid", "softmax", "identity" or a class path below
    torch.nn.modules. A name is taken literally, so "sigmoid" on several labels is one sigmoid per label;
    "softmax" on a single label is refused.

    Older spellings: logit_bias (= logit_mean), logit_scale (= 1 / logit_sigma), pooling_task (= task).
    """

    task: str | None = None
    pooling_type: str | None = None
    seq_pooling_type: str | None = None
    tok_pooling_type: str | None = None
    use_activation: bool | None = None
    enable_flash_late_interaction: bool = True
    dimensions: int | None = None
    enable_chunked_processing: bool = False
    max_embed_len: int | None = None
    logit_mean: float | None = None
    logit_sigma: float | None = None
    step_tag_id: int | None = None
    returned_token_ids: list[int] | None = None
    activation: str | None = None
    logit_bias: InitVar[float | None] = None
    logit_scale: InitVar[float | None] = None
    pooling_task: InitVar[str | None] = None
    normalize: InitVar[Any] = _UNSET

    def __post_init__(
        self, logit_bias: float | None, logit_scale: float | None, pooling_task: str | None, normalize: Any
    ) -> None:
        if normalize is not _UNSET:
            raise ValidationError(REMOVED_PARAMETER.format("normalize"), parameter="normalize")
        self._set("task", self._one_of("task", self.task, "pooling_task", pooling_task))
        if self.task in REMOVED_TASKS:
            raise ValidationError(REMOVED_TASKS[self.task], parameter="task")
        self._route_pooling_type()
        self._set_calibration(_number("logit_bias", logit_bias), _number("logit_scale", logit_scale))
        if self.use_activation is not None and not isinstance(self.use_activation, bool):
            raise ConfigError(f"use_activation must be True, False or None, got {self.use_activation!r}")
        if self.enable_chunked_processing:
            raise ConfigError("enable_chunked_processing is not supported: truncate or split long inputs")
        self._check_activation()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @staticmethod
    def _one_of(name: str, value: Any, alias: str, alias_value: Any) -> Any:
        if alias_value is None:
            return value
        if value is not None:
            raise ConfigError(f"Cannot set both `{alias}` and `{name}`")
        return alias_value

    def _route_pooling_type(self) -> None:
        kind = _pooling_type("pooling_type", self.pooling_type, SEQ_POOLING_TYPES + TOK_POOLING_TYPES)
        if kind is not None:
            for field in ("seq_pooling_type", "tok_pooling_type"):
                if getattr(self, field) is not None:
                    raise ConfigError(f"Cannot set both `pooling_type` and `{field}`")
            self._set("seq_pooling_type" if kind in SEQ_POOLING_TYPES else "tok_pooling_type", kind)
            self._set("pooling_type", None)
        self._set("seq_pooling_type", _pooling_type("seq_pooling_type", self.seq_pooling_type, SEQ_POOLING_TYPES))
        self._set("tok_pooling_type", _pooling_type("tok_pooling_type", self.tok_pooling_type, TOK_POOLING_TYPES))

    def _set_calibration(self, logit_bias: float | None, logit_scale: float | None) -> None:
        mean = self._one_of("logit_mean", _number("logit_mean", self.logit_mean), "logit_bias", logit_bias)
        sigma = _number("logit_sigma", self.logit_sigma)
        if sigma == 0.0:
            raise ConfigError("logit_sigma cannot be 0 (division by zero)")
        if logit_scale == 0.0:
            raise ConfigError("logit_scale cannot be 0 (logit_sigma is 1 / logit_scale)")
        inverse = None if logit_scale is None else 1.0 / logit_scale
        self._set("logit_mean", mean)
        self._set("logit_sigma", self._one_of("logit_sigma", sigma, "logit_scale", inverse))

    def _check_activation(self) -> None:
        name = self.activation
        if name is None or name in NAMED_ACTIVATIONS:
            return
        if not isinstance(name, str) or not name.startswith("torch.nn.modules."):
            raise ConfigError("Loading of activation functions is restricted to torch.nn.modules for security reasons")

    def replace(self, **changes: Any) -> PoolerConfig:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Budgets of the engine.

    max_batch_tokens, max_batch_size: the most one model call takes (a single longer sequence still goes alone).
    lookahead: how many waiting sequences the scheduler may look past one that does not fit the rest of a batch.
    num_threads: kernel threads; None leaves the process default.
    tokenizer_threads: how many prompt chunks are tokenised at once.
    scheduling_policy: "fcfs" shares every batch between the waiting jobs, token by token; "priority" serves the lowest
    priority number first, then the oldest.
    max_queued_tokens: a job is refused while so many tokens wait (it is never refused where none do, and counts for at
    most half of the limit); None takes everything.
    result_cache_bytes: memory for results of inputs that were seen before; 0 keeps none.
    """

    max_batch_tokens: int = 4096
    max_batch_size: int = 256
    lookahead: int = 64
    num_threads: int | None = None
    tokenizer_threads: int = 2
    scheduling_policy: str = "fcfs"
    max_queued_tokens: int | None = None
    result_cache_bytes: int = 0

    def __post_init__(self) -> None:
        if self.scheduling_policy not in SCHEDULING_POLICIES:
            choices = " or ".join(map(repr, SCHEDULING_POLICIES))
            raise ConfigError(f"scheduling_policy must be {choices}, got {self.scheduling_policy!r}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "scheduling_policy" or (field.default is None and value is None):
                continue
            least = 0 if field.name in ("lookahead", "result_cache_bytes") else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{field.name} must be an integer >= {least}, got {value!r}")
