"""One file per dialect: how its bodies become the internal request, and how answers and failures look in it."""

from __future__ import annotations
