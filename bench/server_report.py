"""Results of the server benchmark as text, JSON and a picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from plot import OUR_COLOUR, PEER_COLOUR
from report import format_table
from server_measure import OFFLINE, ServerMeasurement, ServerWorkload

OFFLINE_COLOUR = "#334155"
Results = list[tuple[ServerWorkload, list[ServerMeasurement]]]


def against_offline(work: ServerWorkload, measurement: ServerMeasurement, offline: ServerMeasurement | None) -> str:
    """Milliseconds more than the library's call, or the share of its throughput; medians of both."""
    if offline is None:
        return "-"
    if work.is_about_latency:
        return f"{measurement.median('p50_ms') - offline.median('p50_ms'):+.2f} ms"
    return f"{100 * measurement.median('pairs_per_s') / offline.median('pairs_per_s'):.1f} %"


def row(work: ServerWorkload, measurement: ServerMeasurement, offline: ServerMeasurement | None) -> list[str]:
    """One contender: rate and percentiles with their ranges over the rounds."""
    low, high = measurement.ends("pairs_per_s")
    fast, slow = measurement.ends("p50_ms")
    return [
        measurement.contender,
        f"{measurement.median('pairs_per_s'):.1f}",
        f"{low:.1f}..{high:.1f}",
        f"{measurement.median('p50_ms'):.2f}",
        f"{fast:.2f}..{slow:.2f}",
        f"{measurement.median('p90_ms'):.2f}",
        f"{measurement.median('p99_ms'):.2f}",
        against_offline(work, measurement, offline),
        f"{measurement.max_abs_error:.1e}",
        f"{measurement.median('foreign_cores'):.2f}{'' if measurement.is_clean else '!'}",
        measurement.settings,
    ]


def format_workload(work: ServerWorkload, measurements: list[ServerMeasurement]) -> str:
    """The table of one workload."""
    offline = next((m for m in measurements if m.contender == OFFLINE), None)
    header = ["contender", "pairs/s", "min..max", "p50 ms", "min..max", "p90 ms", "p99 ms"]
    header += ["vs offline", "max |err|", "foreign", "settings"]
    return f"{work.name}: {work.title}\n{format_table(header, [row(work, m, offline) for m in measurements])}"


def as_json(results: Results) -> dict[str, Any]:
    """The whole run with every sample."""
    workloads = [
        {
            "name": work.name,
            "title": work.title,
            "num_requests": work.num_requests,
            "concurrency": work.concurrency,
            "rate_hz": work.rate_hz,
            "pairs_per_request": len(work.groups[0]),
            "measurements": [dataclasses.asdict(measurement) for measurement in measurements],
        }
        for work, measurements in results
    ]
    return {"workloads": workloads}


def colour(name: str) -> str:
    """Ours, the library's, a peer's."""
    return OFFLINE_COLOUR if name == OFFLINE else OUR_COLOUR if name.startswith("assay") else PEER_COLOUR


def draw(axes: Any, work: ServerWorkload, measurements: list[ServerMeasurement]) -> None:
    """Bars of the medians with the range of the rounds; where latency counts, p99 as a dot."""
    field = "p50_ms" if work.is_about_latency else "pairs_per_s"
    names = [m.contender for m in measurements]
    values = [m.median(field) for m in measurements]
    spread = [
        [value - m.ends(field)[0] for value, m in zip(values, measurements, strict=True)],
        [m.ends(field)[1] - value for value, m in zip(values, measurements, strict=True)],
    ]
    colours = [colour(name) for name in names]
    axes.barh(names, values, color=colours, xerr=spread, error_kw={"elinewidth": 1, "capsize": 2})
    for position, (value, m) in enumerate(zip(values, measurements, strict=True)):
        axes.annotate(f" {value:.4g}", (m.ends(field)[1], position), va="center", fontsize=8)
    if work.is_about_latency:
        tails = [m.median("p99_ms") for m in measurements]
        axes.plot(tails, range(len(tails)), "o", color="black", markersize=4, label="p99")
        axes.set_xscale("log")
        axes.legend(fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("p50, milliseconds (less is better)" if work.is_about_latency else "pairs/s (more is better)")
    axes.set_title(f"{work.name}: {work.title}", fontsize=9)
    axes.grid(axis="x", alpha=0.3)


def write_plot(path: Path, title: str, results: Results) -> None:
    """One panel per workload."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(len(results), 1, figsize=(8, 0.6 + 1.8 * len(results)), squeeze=False)
    for (axes,), (work, measurements) in zip(grid, results, strict=True):
        draw(axes, work, measurements)
    figure.suptitle(f"{title}; medians of the rounds, min..max", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
