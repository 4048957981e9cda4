"""What the numbers of an answer are: the model's own scores, logits, or probabilities whatever the model declares."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from assay.server.errors import refuse
from assay.server.request import Score

if TYPE_CHECKING:
    from torch import Tensor

    from assay.server.request import Call, Scale
    from assay.server.served import ServedModel


def score_kind(call: Call, model: ServedModel) -> str:
    """What the numbers of the answer are: logit, sigmoid, softmax, cosine, ..."""
    if model.task in ("embed", "token_embed"):
        is_pair = isinstance(call.work, Score)
        return ("cosine" if model.task == "embed" else "max_similarity") if is_pair else "embedding"
    if call.scale != "model":
        return _applied(call.scale, model)
    name = model.activation if _uses_activation(call, model) else "identity"
    return "logit" if name == "identity" else name.lower()


def _applied(scale: Scale, model: ServedModel) -> str:
    """What is made of the logits on a scale that is not the model's: logit, sigmoid or softmax."""
    if scale == "pipeline":
        return "logit" if model.is_regression else model.probability
    if scale == "softmax" and model.num_labels < 2:
        raise refuse("softmax needs two labels or more: of one it is always 1")
    return model.probability if scale == "probability" else scale


def _uses_activation(call: Call, model: ServedModel) -> bool:
    if call.use_activation is None:
        return model.session.model.default_use_activation
    return call.use_activation


def scaling(call: Call, model: ServedModel) -> tuple[Callable[[Tensor], Tensor], bool | None]:
    """What is done to the engine's numbers, and whether the engine applies the model's activation."""
    if call.scale == "model":
        return _same, call.use_activation
    applied = _applied(call.scale, model)
    if applied == "logit":
        return _same, False
    if model.task in ("embed", "token_embed"):
        return _same, None
    if model.activation == applied:
        return _same, True
    return (_sigmoid if applied == "sigmoid" else _softmax), False


def _same(data: Tensor) -> Tensor:
    return data


def _sigmoid(data: Tensor) -> Tensor:
    return data.double().sigmoid().float()


def _softmax(data: Tensor) -> Tensor:
    return data.double().softmax(dim=-1).float()
