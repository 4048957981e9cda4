"""Models: which architectures there are, how one is loaded, and how it runs."""

from __future__ import annotations

from assay.models.check import CheckReport, check_model
from assay.models.loading import load_model
from assay.models.pooling_model import PoolingModel
from assay.models.registry import ARCHITECTURES

__all__ = ["ARCHITECTURES", "CheckReport", "PoolingModel", "check_model", "load_model"]
