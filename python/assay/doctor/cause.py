"""Why two sides differ: plain checks first, then suspicions tried out on the transformers side.

A suspicion such as "positions are one too high" is tested by making transformers commit that very mistake: if its
logits then equal assay's, that is the cause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from assay.batch import Sequence
from assay.doctor.compare import max_error

if TYPE_CHECKING:
    from assay.doctor.compare import Difference
    from assay.doctor.reference import Reference
    from assay.doctor.subject import Subject
    from assay.doctor.trace import Array, Trace

NONE: Final = "none"
TOKEN_IDS: Final = "tokenizer ids differ"
TOKEN_TYPES: Final = "token types differ"
POSITION: Final = "position or truncation"
HEAD: Final = "head or activation"
PRECISION: Final = "precision"
NON_FINITE: Final = "non-finite"
BACKBONE: Final = "weights or computation"

PROBES = 4
"""A suspicion is tried on this many of the inputs that differ."""
SAME = 0.05
"""A suspicion explains a difference when it leaves less than this share of it."""
POSITION_SHIFTS = (1, -1, 2, -2, 3)
HIDDEN_ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu", "quick_gelu", "tanh")
BODY_SHARE = 0.05
"""The body is cleared when its hidden states are off by less than this share of what the logits are off (each relative
to its largest value): an error that arises in the head leaves the hidden states alone."""
LOW_PRECISION_ERROR = 0.1
"""An error below this share of the largest logit may come from rounding; above it, it does not."""


@dataclass(frozen=True, slots=True)
class Cause:
    """kind is one of the constants of this module; detail is a sentence about it."""

    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Case:
    """One input on both sides."""

    ours: Trace
    theirs: Trace
    difference: Difference


def find_cause(
    cases: list[Case], subject: Subject, reference: Reference, allowed: float, *, in_low_precision: bool
) -> Cause:
    """The first cause that holds; `allowed` is the largest logit or score error that counts as agreement."""
    for check in (_non_finite, _token_ids, _token_types):
        found = check(cases)
        if found is not None:
            return found
    wrong = [case for case in cases if (error := case.difference.logit_error) is None or error > allowed]
    if not wrong:
        return _score_cause(cases, allowed)
    if any(case.difference.logit_error is None for case in wrong):
        ours, theirs = wrong[0].ours.logits.shape, wrong[0].theirs.logits.shape
        return Cause(HEAD, f"the head gives values of shape {list(ours)}, transformers {list(theirs)}")
    wrong.sort(key=lambda case: -(case.difference.logit_error or 0.0))
    if _bodies_agree(wrong[:PROBES], subject, reference):
        return _head_cause(wrong) or Cause(HEAD, "the hidden states agree up to the head, the logits do not")
    return _tried_cause(wrong, reference) or _head_cause(wrong) or _remaining_cause(cases, wrong, in_low_precision)


def _non_finite(cases: list[Case]) -> Cause | None:
    import numpy as np

    for side, name in (("ours", "assay"), ("theirs", "transformers")):
        bad = sum(not np.isfinite(getattr(case, side).logits).all() for case in cases)
        if bad:
            return Cause(NON_FINITE, f"{name} gives NaN or infinity for {bad} of {len(cases)} inputs")
    return None


def _token_ids(cases: list[Case]) -> Cause | None:
    wrong = [case for case in cases if case.difference.token is not None]
    if not wrong:
        return None
    lengths = [(len(case.ours.input_ids), len(case.theirs.input_ids)) for case in wrong]
    count = f"{len(wrong)} of {len(cases)} inputs"
    if all(_is_cut(*_shorter_first(case)) for case in wrong):
        return Cause(POSITION, f"{count} are cut at another length: {lengths[0][0]} tokens here, {lengths[0][1]} there")
    place = wrong[0].difference.token
    assert place is not None
    first = f"{place.ours} here, {place.theirs} there"
    return Cause(TOKEN_IDS, f"{count} are split into other tokens; first at token {place.position}: {first}")


def _shorter_first(case: Case) -> tuple[list[int], list[int]]:
    ours, theirs = case.ours.input_ids, case.theirs.input_ids
    return (ours, theirs) if len(ours) < len(theirs) else (theirs, ours)


def _is_cut(short: list[int], long: list[int]) -> bool:
    """Whether `short` is `long` with tokens left out and a closing special token kept (or lost)."""
    if len(short) == len(long):
        return False
    rest = iter(long)
    return all(token in rest for token in short)  # a subsequence: truncation takes tokens out and adds none


def _token_types(cases: list[Case]) -> Cause | None:
    wrong = sum(case.difference.types_differ for case in cases)
    return (
        Cause(TOKEN_TYPES, f"in {wrong} of {len(cases)} inputs the two sides mark segments differently")
        if wrong
        else None
    )


def _score_cause(cases: list[Case], allowed: float) -> Cause:
    wrong = [case for case in cases if (error := case.difference.score_error) is None or error > allowed]
    if wrong:
        return Cause(HEAD, f"the logits agree, the scores of {len(wrong)} inputs do not: the activations differ")
    return Cause(NONE, "token ids and types are equal, logits and scores agree within the allowed error")


def _bodies_agree(probes: list[Case], subject: Subject, reference: Reference) -> bool:
    """Whether both sides come to the same hidden states, so that only the head can be at fault."""
    import numpy as np

    for case in probes:
        types = case.ours.token_type_ids
        ours = subject.hidden_states(Sequence(case.ours.input_ids, types if any(types) else None))
        theirs = reference.hidden_states(case.theirs.input_ids, case.theirs.token_type_ids)
        error = max_error(ours, theirs)
        logit_error = (case.difference.logit_error or 0.0) / max(1.0, float(np.abs(case.theirs.logits).max()))
        if error is None or error / max(1.0, float(np.abs(theirs).max())) > BODY_SHARE * logit_error:
            return False
    return True


def _head_cause(wrong: list[Case]) -> Cause | None:
    """Whether assay's logits are a plain function of the reference's: activated, calibrated, or in another order."""
    import numpy as np

    ours = np.concatenate([np.atleast_2d(case.ours.logits) for case in wrong])
    theirs = np.concatenate([np.atleast_2d(case.theirs.logits) for case in wrong])
    scores = np.concatenate([np.atleast_2d(case.theirs.scores) for case in wrong])
    limit = SAME * float(np.abs(ours - theirs).max())
    if _near(ours, scores, limit):
        return Cause(
            HEAD, "assay's logits are the reference's scores: an activation is applied where none was asked for"
        )
    if len(ours) < 3:
        return None
    if theirs.std() > 0:
        slope, shift = np.polyfit(theirs.ravel(), ours.ravel(), 1)
        if slope > 0 and _near(ours, slope * theirs + shift, limit):
            return Cause(HEAD, f"assay's logits are {slope:.4g} times the reference's plus {shift:.4g}: a calibration")
    if 2 <= theirs.shape[1] <= 64:
        order = [int(np.abs(theirs - ours[:, [i]]).max(axis=0).argmin()) for i in range(ours.shape[1])]
        if order != list(range(len(order))) and _near(ours, theirs[:, order], limit):
            return Cause(HEAD, f"the labels are in another order: {order}")
    return None


def _near(ours: Array, theirs: Array, limit: float) -> bool:
    error = max_error(ours, theirs)
    return error is not None and error <= limit


def _tried_cause(wrong: list[Case], reference: Reference) -> Cause | None:
    probes = wrong[:PROBES]
    for kind, words, mistake, clears_types in _suspicions(probes, reference):
        with mistake():
            if all(_explains(case, reference, clears_types=clears_types) for case in probes):
                return Cause(kind, f"transformers gives assay's logits when {words}")
    return None


Suspicion = tuple[str, str, Callable[[], AbstractContextManager[object]], bool]


def _suspicions(probes: list[Case], reference: Reference) -> Iterator[Suspicion]:
    if any(any(case.theirs.token_type_ids) for case in probes):
        yield TOKEN_TYPES, "all token types are 0", nullcontext, True
    for shift in POSITION_SHIFTS:
        words = f"positions start {abs(shift)} {'later' if shift > 0 else 'earlier'}"
        yield POSITION, words, lambda shift=shift: reference.shifted_positions(shift), False  # type: ignore[misc]
    for name in HIDDEN_ACTIVATIONS:
        words = f"its feed-forward layers use {name}"
        yield HEAD, words, lambda name=name: reference.other_hidden_activation(name), False  # type: ignore[misc]


def _explains(case: Case, reference: Reference, *, clears_types: bool) -> bool:
    types = [0] * len(case.theirs.input_ids) if clears_types else case.theirs.token_type_ids
    logits = reference.logits(case.theirs.input_ids, types)
    return _near(case.ours.logits, logits, SAME * (case.difference.logit_error or 0.0))


def _remaining_cause(cases: list[Case], wrong: list[Case], in_low_precision: bool) -> Cause:
    import numpy as np

    largest = max(float(np.abs(case.theirs.logits).max(initial=0.0)) for case in cases)
    error = wrong[0].difference.logit_error or 0.0
    if error <= LOW_PRECISION_ERROR * max(1.0, largest):
        what = "more than the dtype's own rounding" if in_low_precision else "small: rounding or reduced arithmetic"
        return Cause(PRECISION, f"logits of {len(wrong)} of {len(cases)} inputs are off by up to {error:.3g}, {what}")
    return Cause(
        BACKBONE,
        f"ids and types agree, yet logits of {len(wrong)} of {len(cases)} inputs are off by up to {error:.3g}: "
        "other weights, or another computation",
    )
