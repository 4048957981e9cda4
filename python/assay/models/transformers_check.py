"""The start-up proof: inputs packed together give what each gives alone, and what transformers gives.

It covers what no list of architectures can: any way in which one packed sequence could reach another, and any rule of
attention, positions or head that this package reads differently from the model's own code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.arena import Arena
from assay.batch import Sequence, pack
from assay.errors import UnsupportedModelError
from assay.models.packed_attention import NAME
from assay.models.packed_products import one_thread
from assay.models.packed_relative import is_relative
from assay.pooler import pool

if TYPE_CHECKING:
    from torch import Tensor

    from assay.models.transformers_class import Outline
    from assay.models.transformers_parts import LoadedParts

LENGTHS = (37, 22)
FAR = 300
"""Tokens of a third input where scores depend on distances: large ones share embeddings by a rule of their own."""
TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
"""Root mean square, relative to the values': this finds another meaning, not another rounding."""
NOISE_FACTOR = 4.0
"""How much further from transformers we may be than it moves when its word embeddings are off by one rounding."""
_FAILURES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What code that meets something it was not written for may raise."""
_SPECIAL = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")


def check_inputs(outline: Outline) -> list[Sequence]:
    """A few sequences without special tokens, whose ids are spread over the vocabulary."""
    shape = outline.shape
    lengths = (*LENGTHS, FAR) if is_relative(outline.config) else LENGTHS
    special = {getattr(outline.config, f"{kind}_token_id", None) for kind in _SPECIAL}
    ids = [index for index in range(shape.vocab_size) if index not in special]
    stride = max(1, len(ids) // 61) | 1
    return [
        Sequence([ids[(start + stride * index) % len(ids)] for index in range(min(length, shape.max_model_len))])
        for start, length in zip((0, len(ids) // 2, len(ids) // 4), lengths, strict=False)
    ]


@dataclass(frozen=True, slots=True)
class Expected:
    """transformers' own results for the check inputs, and how far one rounding carries, relative to them."""

    results: list[Tensor]
    noise: float

    @classmethod
    def measure(cls, model: Any, outline: Outline) -> Expected:
        """Run the model as transformers would, one input at a time; to be called while it still has its head."""
        parts = () if is_relative(model.config) else (model, model.base_model)
        try:
            for part in parts:  # a class may give its backbone a copy of the config
                part.set_attn_implementation("eager")
            results = _transformers_results(model, outline)
            hook = model.get_input_embeddings().register_forward_hook(_shaken)
            shaken = _transformers_results(model, outline)
            hook.remove()
            for part in parts:
                part.set_attn_implementation(NAME)
        except _FAILURES as err:
            raise UnsupportedModelError(f"{outline.architecture} does not run in transformers itself: {err}") from err
        return cls(results, max(_error(a, b) for a, b in zip(shaken, results, strict=True)))


def _shaken(module: Any, args: Any, embeddings: Tensor) -> Tensor:
    """Word embeddings with every number off by one rounding, up or down in turns."""
    import torch

    signs = 1 - 2 * (torch.arange(embeddings.numel(), device=embeddings.device).view(embeddings.shape) % 2)
    return embeddings * (1 + torch.finfo(embeddings.dtype).eps * signs).to(embeddings.dtype)


def _transformers_results(model: Any, outline: Outline) -> list[Tensor]:
    """Logits of each check input alone, or hidden states where there is no head."""
    import torch

    module, key = (model.base_model, "last_hidden_state") if outline.head == "embedding" else (model, "logits")
    with torch.inference_mode(), one_thread():
        ids = [torch.tensor([sequence.input_ids], device=model.device) for sequence in check_inputs(outline)]
        outputs = [module(input_ids=row) for row in ids]
    return [getattr(output, key)[0].float().cpu() for output in outputs]


def check_packing(parts: LoadedParts, outline: Outline, expected: Expected, dtype: str) -> None:
    """Raise UnsupportedModelError unless the check inputs give the same packed together, alone and in transformers."""
    import torch

    inputs = check_inputs(outline)
    try:
        alone = [result for sequence in inputs for result in _results(parts, outline, [sequence])]
        packed = _results(parts, outline, [*inputs, inputs[0]])
    except _FAILURES as err:
        raise UnsupportedModelError(f"{outline.architecture} cannot run on packed sequences: {err}") from err
    if parts.backbone.sequences.num_calls == 0:
        raise UnsupportedModelError(f"{outline.architecture} never called the attention function it was given")
    if not all(torch.equal(a, b) for a, b in zip(packed, [*alone, alone[0]], strict=True)):
        raise UnsupportedModelError(
            f"{outline.architecture} gives an input other bits in a batch than alone: something other than attention "
            f"reads more than one token"
        )
    allowed = max(TOLERANCE[dtype], NOISE_FACTOR * expected.noise)
    error = max(_error(ours, theirs) for ours, theirs in zip(alone, expected.results, strict=True))
    if not error <= allowed:  # a NaN is no agreement either
        raise UnsupportedModelError(
            f"{outline.architecture} gives other results here than in transformers: off by {error:.1e} of their size, "
            f"{allowed:.0e} is allowed"
        )


def _results(parts: LoadedParts, outline: Outline, sequences: list[Sequence]) -> list[Tensor]:
    """Raw logits of each sequence, or its hidden states."""
    device = parts.backbone.sequences.device
    batch = pack(sequences, parts.backbone.shape.position_offset).on(device)
    hidden_states = parts.backbone(batch, Arena(0, device))
    if outline.head == "sequence":
        return list(parts.logits(pool(hidden_states, batch, (outline.pooling,), device)).cpu().unbind(0))
    rows = hidden_states if outline.head == "embedding" else parts.logits(hidden_states)
    return list(rows.cpu().split_with_sizes(batch.seqlens()))


def _error(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        raise UnsupportedModelError(f"results have shape {list(ours.shape)}, in transformers {list(theirs.shape)}")
    return float((ours - theirs).square().mean().sqrt()) / max(1.0, float(theirs.square().mean().sqrt()))
