"""int8 with a guard: quantised layers are kept only where the model's answers stay those of bfloat16."""

from __future__ import annotations

from assay.quantization.calibration import built_in_pairs, built_in_texts, given
from assay.quantization.figures import Budget, Figures
from assay.quantization.guard import Calibration, judge, layered, mixed
from assay.quantization.verdict import Verdict, fingerprint, keep_verdict, kept_verdict

__all__ = [
    "Budget",
    "Calibration",
    "Figures",
    "Verdict",
    "built_in_pairs",
    "built_in_texts",
    "fingerprint",
    "given",
    "judge",
    "keep_verdict",
    "kept_verdict",
    "layered",
    "mixed",
]
