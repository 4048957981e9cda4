"""What an examination found."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay.doctor.cause import Case, Cause
    from assay.doctor.compare import Totals
    from assay.doctor.inputs import Example


@dataclass(frozen=True, slots=True)
class Setting:
    """What was compared, on what."""

    model: str
    reference: str
    architecture: str
    task: str
    dtype: str
    isa: str
    arithmetic: str
    activation: str
    max_length: int
    labels: list[str]
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict and all that led to it; `allowed` is the largest error that counts as agreement, `basis` says why."""

    setting: Setting
    examples: list[Example]
    cases: list[Case]
    totals: Totals
    allowed: float
    basis: str
    cause: Cause
    batch_changes: int
    seconds: float

    @property
    def agrees(self) -> bool:
        """Whether both sides give the same answers, and ours do not depend on the batch."""
        return self.cause.kind == "none" and self.batch_changes == 0

    @property
    def verdict(self) -> str:
        """The verdict in one word or two."""
        return "agrees" if self.agrees else "disagrees"

    @property
    def first_token_difference(self) -> dict[str, Any] | None:
        """The first input whose tokens differ, and where."""
        for example, case in zip(self.examples, self.cases, strict=True):
            if case.difference.token is not None:
                return {"input": example.name, **dataclasses.asdict(case.difference.token)}
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the numbers of every input under `inputs`."""
        inputs = []
        for example, case in zip(self.examples, self.cases, strict=True):
            numbers = dataclasses.asdict(case.difference)
            inputs.append({**dataclasses.asdict(example), "num_tokens": len(case.ours.input_ids), **numbers})
        return {
            "verdict": self.verdict,
            "agrees": self.agrees,
            "cause": self.cause.kind,
            "detail": self.cause.detail,
            **dataclasses.asdict(self.setting),
            "num_inputs": len(self.cases),
            "allowed_error": self.allowed,
            "allowed_error_basis": self.basis,
            **dataclasses.asdict(self.totals),
            "first_token_difference": self.first_token_difference,
            "batch_changes": self.batch_changes,
            "seconds": self.seconds,
            "inputs": inputs,
        }
