"""`PoolingParams`: what one request may ask of the pooler."""

from __future__ import annotations

import copy
from dataclasses import InitVar, dataclass
from typing import Any, Final, Protocol

from assay.errors import ValidationError
from assay.tasks import REMOVED_PARAMETER, REMOVED_TASKS, TOKEN_TASKS

VALID_PARAMETERS: Final = {
    "embed": ["dimensions", "use_activation"],
    "classify": ["use_activation"],
    "token_embed": ["dimensions", "use_activation"],
    "token_classify": ["use_activation"],
}
_STEP_PARAMETERS: Final = ("step_tag_id", "returned_token_ids")
_UNSUPPORTED: Final = "Task {} only supports {} parameters, does not support {} parameters"
_UNSET: Any = object()


class PoolerDefaults(Protocol):
    """The part of a PoolerConfig that fills what a request leaves None."""

    @property
    def use_activation(self) -> bool | None: ...
    @property
    def dimensions(self) -> int | None: ...
    @property
    def tok_pooling_type(self) -> str | None: ...
    @property
    def step_tag_id(self) -> int | None: ...
    @property
    def returned_token_ids(self) -> list[int] | None: ...


@dataclass(kw_only=True)
class PoolingParams:
    """Parameters of one pooling request.

    use_activation: apply the model's activation (classify) or normalisation (embed); None takes the model's default.
    dimensions: shorten an embedding (models trained for it only).
    step_tag_id, returned_token_ids: only for STEP pooling: the token whose rows are read, and the columns read there.
    extra_kwargs: keys read are max_tokens_per_query, max_tokens_per_doc and chat_template_kwargs (scoring), and
    compressed_token_type_ids.
    """

    use_activation: bool | None = None
    dimensions: int | None = None
    step_tag_id: int | None = None
    returned_token_ids: list[int] | None = None
    task: str | None = None
    requires_token_ids: bool = False
    skip_reading_prefix_cache: bool | None = None
    late_interaction_params: Any = None
    extra_kwargs: dict[str, Any] | None = None
    output_kind: Any = "FINAL_ONLY"
    softmax: InitVar[Any] = _UNSET
    activation: InitVar[Any] = _UNSET
    normalize: InitVar[Any] = _UNSET

    def __post_init__(self, softmax: Any, activation: Any, normalize: Any) -> None:
        for name, value in (("softmax", softmax), ("activation", activation), ("normalize", normalize)):
            if value is not _UNSET:
                raise ValidationError(REMOVED_PARAMETER.format(name), parameter=name)
        if self.task in REMOVED_TASKS:
            raise ValidationError(REMOVED_TASKS[self.task], parameter="task")
        if self.use_activation is not None and not isinstance(self.use_activation, bool):
            raise ValidationError(f"use_activation must be True, False or None, got {self.use_activation!r}")
        kind = getattr(self.output_kind, "name", self.output_kind)
        if kind != "FINAL_ONLY":
            raise ValidationError(f"For pooling output_kind has to be FINAL_ONLY, got {self.output_kind}")

    def clone(self) -> PoolingParams:
        """A deep copy."""
        clone = copy.copy(self)  # most fields are plain values; copying them deeply would cost a short call dearly
        for name in ("returned_token_ids", "late_interaction_params", "extra_kwargs", "output_kind"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                setattr(clone, name, copy.deepcopy(value))
        return clone

    def resolved(self, task: str, defaults: PoolerDefaults) -> PoolingParams:
        """A checked copy for `task`, with what is None filled from `defaults`; raises ValidationError."""
        params = self.clone()
        params.task = task
        valid = VALID_PARAMETERS[task]
        for name in valid:
            if getattr(params, name) is None:
                setattr(params, name, getattr(defaults, name))
        if params.skip_reading_prefix_cache is None:
            params.skip_reading_prefix_cache = task in TOKEN_TASKS
        if task not in TOKEN_TASKS or defaults.tok_pooling_type != "STEP":
            wrong = [name for name in _STEP_PARAMETERS if getattr(params, name) is not None]
            if wrong:
                raise ValidationError(_UNSUPPORTED.format(task, valid, wrong))
        else:
            for name in _STEP_PARAMETERS:
                if getattr(params, name) is None:
                    setattr(params, name, getattr(defaults, name))
        if params.use_activation is None:
            params.use_activation = True
        if params.dimensions is not None and "dimensions" not in valid:
            raise ValidationError(_UNSUPPORTED.format(repr(task), valid, ["dimensions"]))
        return params
