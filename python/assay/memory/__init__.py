"""Memory: what a model will need of it, told before its weights are read."""

from __future__ import annotations

from assay.memory.estimate import plan_memory
from assay.memory.plan import MemoryPlan
from assay.memory.process import Base, ProcessMemory, measure_base, own_memory

__all__ = ["Base", "MemoryPlan", "ProcessMemory", "measure_base", "own_memory", "plan_memory"]
