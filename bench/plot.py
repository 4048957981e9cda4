"""The results as a picture: throughput bars with the error written on them, and one-pair latency, per model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from measure import Measurement, shown
from report import ModelResult

OUR_COLOUR, PEER_COLOUR = "#c2410c", "#94a3b8"


def draw_bars(axes: Any, measurements: list[Measurement], num_documents: int) -> None:
    """Horizontal bars of the medians, min/max as error bars."""
    names = [m.contender for m in measurements]
    values = [shown(m.median_s, num_documents) for m in measurements]
    ends = [m.shown_range(num_documents) for m in measurements]
    spread = [
        [value - low for value, (low, _) in zip(values, ends, strict=True)],
        [high - value for value, (_, high) in zip(values, ends, strict=True)],
    ]
    colours = [OUR_COLOUR if name.startswith("assay") else PEER_COLOUR for name in names]
    axes.barh(names, values, color=colours, xerr=spread, error_kw={"elinewidth": 1, "capsize": 2})
    for position, (m, value, (_, high)) in enumerate(zip(measurements, values, ends, strict=True)):
        axes.annotate(f" {value:.4g}   err {m.max_abs_error:.0e}", (high, position), va="center", fontsize=8)
    axes.set_xlim(0, 1.45 * max(high for _, high in ends))
    axes.invert_yaxis()
    axes.set_xlabel(
        "pairs per second (more is better)" if num_documents > 1 else "milliseconds for one pair (less is better)"
    )
    axes.grid(axis="x", alpha=0.3)


def write_plot(path: Path, title: str, results: list[ModelResult]) -> None:
    """One row per model, one column per workload."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    num_columns = len(results[0].workloads)
    size = (6.5 * num_columns, 0.6 + 3.2 * len(results))
    figure, grid = plt.subplots(len(results), num_columns, figsize=size, squeeze=False)
    for row, result in zip(grid, results, strict=True):
        for axes, workload in zip(row, result.workloads, strict=True):
            draw_bars(axes, [m for m in result.measurements if m.workload == workload.name], len(workload.documents))
            work = f"{len(workload.documents)} pair(s), {sum(workload.pair_seqlens)} tokens"
            axes.set_title(f"{result.model}: {work}", fontsize=10)
    figure.suptitle(f"{title}; median, min..max; err = largest logit error against float64", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
