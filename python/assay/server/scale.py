"""What the numbers of an answer are: the model's own scores, logits, or probabilities whatever the model declares."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from assay.server.request import Score

if TYPE_CHECKING:
    from torch import Tensor

    from assay.server.request import Call
    from assay.server.served import ServedModel


def score_kind(call: Call, model: ServedModel) -> str:
    """What the numbers of the answer are: logit, sigmoid, softmax, cosine, ..."""
    if model.task in ("embed", "token_embed"):
        is_pair = isinstance(call.work, Score)
        return ("cosine" if model.task == "embed" else "max_similarity") if is_pair else "embedding"
    if call.scale == "logit" or (call.scale == "model" and not _uses_activation(call, model)):
        return "logit"
    name = model.probability if call.scale == "probability" else model.activation
    return "logit" if name == "identity" else name.lower()


def _uses_activation(call: Call, model: ServedModel) -> bool:
    if call.use_activation is None:
        return model.session.model.default_use_activation
    return call.use_activation


def scaling(call: Call, model: ServedModel) -> tuple[Callable[[Tensor], Tensor], bool | None]:
    """What is done to the engine's numbers, and whether the engine applies the model's activation."""
    if call.scale == "model":
        return _same, call.use_activation
    if call.scale == "logit":
        return _same, False
    if model.task in ("embed", "token_embed"):
        return _same, None
    if model.activation == model.probability:
        return _same, True
    return (_sigmoid if model.probability == "sigmoid" else _softmax), False


def _same(data: Tensor) -> Tensor:
    return data


def _sigmoid(data: Tensor) -> Tensor:
    return data.double().sigmoid().float()


def _softmax(data: Tensor) -> Tensor:
    return data.double().softmax(dim=-1).float()
