"""The `assay` command."""

from __future__ import annotations

from assay.cli.app import main

__all__ = ["main"]
