"""The roofline: what each kernel reaches against what arithmetic and memory allow at its operations per byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from report import Limits

COLOURS = {"linear": "#c2410c", "gated": "#7c3aed", "attention": "#0369a1"}
ROW_COLOUR = "#4d7c0f"
MARKERS = {"float32": "o", "bfloat16": "s"}


def write_plot(path: Path, title: str, rows: list[dict[str, Any]], limits: Limits) -> None:
    """One dot per kernel and shape under the two limits measured in the same run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(figsize=(8, 5))
    intensity = np.logspace(-1.5, 3.5, 200)
    bandwidth = limits["copy_gbps"] or 0.0
    for arithmetic, style in (("float32_fma", "-"), ("bfloat16", "--")):
        peak = limits[f"{arithmetic}_peak_gflops"]
        if peak is not None:
            roof = np.minimum(peak, bandwidth * intensity)
            axes.plot(intensity, roof, style, color="black", linewidth=1, label=f"{arithmetic} peak {peak:.0f} GFLOP/s")
    seen: set[tuple[str, str]] = set()
    for row in rows:
        key = (row["op"], row["dtype"])
        axes.plot(
            row["flop"] / row["bytes"],
            row["gflops"],
            MARKERS[row["dtype"]],
            color=COLOURS.get(row["op"], ROW_COLOUR),
            label=None if key in seen else " ".join(key),
            markersize=5,
        )
        seen.add(key)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations per byte that must be moved at least")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(f"{title}; memory (copy) {bandwidth:.0f} GB/s", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
