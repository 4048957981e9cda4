"""The guard of int8: which layers of a model may run in it, so that its answers stay those of bfloat16."""

from __future__ import annotations

import logging
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.batch import Sequence, pack
from assay.errors import ConfigError, NonFiniteError
from assay.quantization.damage import layer_damage
from assay.quantization.figures import Budget, Figures, compare_embeddings, compare_scores
from assay.quantization.verdict import Verdict
from assay.tasks import EMBED_TASKS

if TYPE_CHECKING:
    from torch import Tensor

    from assay.models import PoolingModel
    from assay.models.family import LayeredBackbone

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Inputs that fit the model, and whether each result passes the activation."""

    sequences: list[Sequence]
    use_activation: list[bool]

    @property
    def is_activated(self) -> bool:
        return self.use_activation[0]

    def answers(self, model: PoolingModel) -> Tensor:
        """Every result, one below the other [num_rows, size]; batches are as large as the model takes."""
        import torch

        results: list[Tensor] = []
        with torch.no_grad():
            for first, last in _batches(self.sequences, model.max_batch_tokens, model.max_batch_size):
                batch = pack(self.sequences[first:last], model.position_offset)
                results += model.run(batch, self.use_activation[first:last])
        rows = torch.cat([result.view(-1, result.shape[-1]) for result in results])
        if not bool(rows.isfinite().all()):
            raise NonFiniteError("quantization='int8': a result of the calibration contains NaN or infinity")
        return rows


def _batches(sequences: list[Sequence], max_tokens: int, max_size: int) -> list[tuple[int, int]]:
    """First and last index of each run of sequences that fit one call."""
    batches, first, tokens = [], 0, 0
    for index, sequence in enumerate(sequences):
        length = len(sequence.input_ids)
        if index > first and (tokens + length > max_tokens or index - first == max_size):
            batches.append((first, index))
            first, tokens = index, 0
        tokens += length
    return [*batches, (first, len(sequences))]


def judge(model: PoolingModel, reference: PoolingModel, calibration: Calibration, budget: Budget) -> Verdict:
    """Put layers of `model`, all int8, back to those of `reference` until the budget holds; at most half of them.

    The layers whose output int8 changes most go first, in steps of 1, 2, 4, ... `model` is left with the layers of the
    verdict. Raises ConfigError with the figures where half of the layers are not enough.
    """
    quantised, exact = layered(model), layered(reference)
    expected = calibration.answers(reference)

    def figures() -> Figures:
        return compared(model, expected, calibration.answers(model), is_activated=calibration.is_activated)

    found = figures()
    kept: tuple[int, ...] = ()
    num_layers = len(quantised.layers)
    if budget.allows(found):
        return Verdict(num_layers, kept, found)
    order = _by_damage(reference, exact, quantised.layers, calibration)
    for count in _steps(num_layers // 2):
        logger.info("int8 with %d of %d layers in bfloat16: %s; more are put back", len(kept), num_layers, found)
        kept = tuple(sorted(order[:count]))
        model.backbone = mixed(quantised, exact, kept)
        found = figures()
        if budget.allows(found):
            return Verdict(num_layers, kept, found)
    raise ConfigError(
        f"quantization='int8' is refused: {model.architecture} with {len(kept)} of {num_layers} layers in bfloat16 has "
        f"{found} against bfloat16, and the budget is {budget}. Use dtype='bfloat16', or quantization_data with texts "
        f"like those it will see"
    )


def layered(model: PoolingModel) -> LayeredBackbone:
    """The backbone of a model that was loaded for int8."""
    backbone: Any = model.backbone
    return backbone  # type: ignore[no-any-return]


def mixed(quantised: LayeredBackbone, exact: LayeredBackbone, kept: SequenceOf[int]) -> LayeredBackbone:
    """The int8 backbone with some layers of the other one."""
    layers = [exact.layers[i] if i in kept else layer for i, layer in enumerate(quantised.layers)]
    return quantised.with_layers(tuple(layers))


def compared(model: PoolingModel, expected: Tensor, ours: Tensor, *, is_activated: bool) -> Figures:
    """The figures of a model's answers, by the kind of its task."""
    if model.task in EMBED_TASKS:
        return compare_embeddings(expected, ours)
    name = model.activation_name
    if name == "softmax" and expected.shape[1] > 1:
        return compare_scores(expected, ours, threshold=None)
    return compare_scores(expected, ours, threshold=0.5 if name == "sigmoid" and is_activated else 0.0)


def _by_damage(
    reference: PoolingModel, exact: LayeredBackbone, twins: tuple[Any, ...], calibration: Calibration
) -> list[int]:
    """Layer indices, the most damaged first."""

    def run(backbone: LayeredBackbone) -> None:
        reference.backbone = backbone
        try:
            calibration.answers(reference)
        finally:
            reference.backbone = exact

    damage = layer_damage(exact, twins, run)
    return sorted(range(len(damage)), key=lambda index: -damage[index])


def _steps(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    steps = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    return [*steps, most] if most else []
