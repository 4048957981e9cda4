"""The examination itself: both sides on every input, then the comparison."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from assay import ops
from assay.batch import Sequence
from assay.doctor.cause import Case, find_cause
from assay.doctor.compare import difference, totals
from assay.doctor.inputs import Example, built_in
from assay.doctor.reference import Reference
from assay.doctor.report import Report, Setting
from assay.doctor.subject import Subject
from assay.errors import ConfigError
from assay.files import resolve_model

if TYPE_CHECKING:
    from assay.doctor.trace import Trace

FLOAT32_TOLERANCE = 1e-4
"""Relative to the largest logit, or absolute where logits are below 1."""
LOW_PRECISION_FACTOR = 1.1
"""A low-precision model may be this much further from float32 than transformers in the same dtype."""
TASKS = ("classify", "token_classify", "embed")

Progress = Callable[[Iterable[Example]], Iterable[Example]]


def examine(
    model: str,
    *,
    examples: list[Example] | None = None,
    reference: str | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    hf_overrides: dict[str, Any] | None = None,
    tolerance: float | None = None,
    progress: Progress = iter,
) -> Report:
    """Compare assay on `model` with transformers on `reference` (the same model unless named).

    hf_overrides change assay's side only, except for how a head is made of a language model. Raises ValueError, OSError
    or ImportError where either side cannot run.
    """
    start = time.perf_counter()
    files = resolve_model(model, revision=revision)
    ours = Subject(files, dtype=dtype, hf_overrides=hf_overrides)
    if ours.model.task not in TASKS:
        raise ConfigError(f"task {ours.model.task!r} cannot be compared; it must be one of {', '.join(TASKS)}")
    other = files if reference is None else resolve_model(reference)
    theirs = Reference(other, ours.model.task, language_model=ours.language_model)
    if examples is None:
        examples = built_in(with_pairs=ours.model.task == "classify")
    examples = [example for example in examples if ours.reads(example)]
    if not examples:
        raise ConfigError("every input is empty or longer than the model: there is nothing to compare")
    pairs = [(ours.trace(example), theirs.trace(example)) for example in progress(examples)]
    cases = [Case(a, b, difference(a, b)) for a, b in pairs]
    summary = totals([a for a, _ in pairs], [b for _, b in pairs], is_embedding=ours.model.task == "embed")
    in_low_precision = ours.model.dtype != "float32"
    if tolerance is not None:
        allowed, basis = tolerance, "as asked for"
    elif in_low_precision:
        allowed, basis = _low_precision_budget(theirs, ours.model.dtype, pairs)
    else:
        allowed = FLOAT32_TOLERANCE * max(1.0, summary.max_reference_logit)
        basis = f"{FLOAT32_TOLERANCE:g} of the largest logit"
    sequences = [Sequence(a.input_ids, a.token_type_ids if any(a.token_type_ids) else None) for a, _ in pairs]
    changes = ours.changes_in_batches(sequences, [a.logits for a, _ in pairs])
    cause = find_cause(cases, ours, theirs, allowed, in_low_precision=in_low_precision)
    return Report(
        setting=_setting(model, reference or model, ours),
        examples=examples,
        cases=cases,
        totals=summary,
        allowed=allowed,
        basis=basis,
        cause=cause,
        batch_changes=changes,
        seconds=time.perf_counter() - start,
    )


def _low_precision_budget(theirs: Reference, dtype: str, pairs: list[tuple[Trace, Trace]]) -> tuple[float, str]:
    """The error transformers itself makes in `dtype`, and a little more."""
    import numpy as np

    low = Reference(theirs.files, theirs.task, dtype, theirs.language_model)
    errors = [float(np.abs(low.logits(b.input_ids, b.token_type_ids) - b.logits).max(initial=0.0)) for _, b in pairs]
    allowed = LOW_PRECISION_FACTOR * max(errors, default=0.0)
    return allowed, f"{LOW_PRECISION_FACTOR} times transformers' own error in {dtype}"


def _setting(model: str, reference: str, subject: Subject) -> Setting:
    loaded = subject.model
    names = ("torch", "transformers", "tokenizers")
    return Setting(
        model=model,
        reference=reference,
        architecture=loaded.architecture,
        task=loaded.task,
        dtype=loaded.dtype,
        isa=ops.active_isa(),
        arithmetic=loaded.arithmetic,
        activation=loaded.activation_name,
        max_length=subject.max_length,
        labels=[] if loaded.task == "embed" else [loaded.id2label[i] for i in sorted(loaded.id2label)],
        versions={name: importlib.metadata.version(name) for name in names},
    )
