"""STEP pooling: of a token classifier's rows those that end a step of a solution, and of its labels those asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from assay.errors import ConfigError, ValidationError
from assay.pooler import resolve_activation

if TYPE_CHECKING:
    from torch import Tensor

    from assay.config import PoolerConfig
    from assay.hf_config import HFConfig
    from assay.pooler import Activation


@dataclass(frozen=True, slots=True)
class StepSelection:
    """What one request reads: rows whose token is step_tag_id (None: every row), columns label_ids (None: all).

    Columns are chosen before the activation, which is over those alone: such a request is computed without activation,
    and `activation` (None: none) follows here.
    """

    step_tag_id: int | None
    label_ids: tuple[int, ...] | None
    activation: Activation | None

    def __call__(self, data: Tensor, token_ids: list[int]) -> Tensor:
        """data [num_tokens, num_labels] and its token ids [num_tokens] -> [num_steps, num_columns] float32."""
        import torch

        if self.step_tag_id is not None:
            rows = [index for index, token_id in enumerate(token_ids) if token_id == self.step_tag_id]
            data = data[torch.tensor(rows, dtype=torch.long)]
        if self.label_ids is None:
            return data
        data = data[:, list(self.label_ids)]
        return data if self.activation is None else _activated(data, self.activation)


def step_selection(
    step_tag_id: object,
    label_ids: object,
    use_activation: bool,
    num_labels: int,
    hf_config: HFConfig,
    pooler_config: PoolerConfig,
) -> StepSelection:
    """What a request's step_tag_id and returned_token_ids ask for; raises ValidationError."""
    if step_tag_id is not None and (type(step_tag_id) is not int or step_tag_id < 0):
        raise ValidationError(f"step_tag_id must be a token id, got {step_tag_id!r}", "step_tag_id")
    if label_ids is None:
        return StepSelection(step_tag_id, None, None)
    if not isinstance(label_ids, list | tuple) or not label_ids:
        raise ValidationError(f"returned_token_ids must be a list of columns, got {label_ids!r}", "returned_token_ids")
    for label_id in label_ids:
        if type(label_id) is not int or not 0 <= label_id < num_labels:
            raise ValidationError(
                f"returned_token_ids must be columns of the model's {num_labels} labels, got {label_id!r}",
                "returned_token_ids",
            )
    try:
        activation = resolve_activation(hf_config, pooler_config, len(label_ids)) if use_activation else None
    except ConfigError as err:  # the model's labels have this activation, but not a single one of them
        raise ValidationError(f"returned_token_ids={list(label_ids)}: {err}", "returned_token_ids") from err
    return StepSelection(step_tag_id, tuple(label_ids), activation)


def _activated(logits: Tensor, activation: Activation) -> Tensor:
    import torch

    if activation.module is not None:
        with torch.inference_mode():
            result: Tensor = activation.module(logits)
        return result
    if activation.kernel == "softmax":
        return torch.softmax(logits, dim=-1)
    return torch.sigmoid(logits) if activation.kernel == "sigmoid" else logits
