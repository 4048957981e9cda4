"""The HTTP server: `assay serve MODEL`, or `python -m assay.server MODEL`. Needs the extra `server`."""

from __future__ import annotations
