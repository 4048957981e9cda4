"""Prompts in, results out in order: jobs of any number of callers share one model."""

from __future__ import annotations

from assay.engine.core import Engine, EngineStats
from assay.engine.job import Job, Result, Times
from assay.engine.ticket import Ticket

__all__ = ["Engine", "EngineStats", "Job", "Result", "Ticket", "Times"]
