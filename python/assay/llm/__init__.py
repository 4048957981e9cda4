"""`assay.llm.LLM`: the offline interface."""

from __future__ import annotations

from assay.llm.offline import LLM

__all__ = ["LLM"]
