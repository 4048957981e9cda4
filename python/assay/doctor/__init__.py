"""Are the answers those of transformers, and if not, why? `examine` compares the two and names the cause."""

from __future__ import annotations

from assay.doctor.examination import examine
from assay.doctor.inputs import Example
from assay.doctor.report import Report

__all__ = ["Example", "Report", "examine"]
