"""The results as a text table and a JSON file."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np

from contender import FloatArray
from measure import Measurement, shown
from workload import Workload

REFERENCE_PEERS = ("st-f32", "st-f32-untuned", "ort-f32", "openvino-auto")
Limits = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class ModelResult:
    """Everything measured on one model. gflop: useful work per workload; peers: who speed is compared with."""

    model: str
    workloads: list[Workload]
    gflop: dict[str, float]
    reference: dict[str, FloatArray]
    measurements: list[Measurement]
    skipped: dict[str, str]
    peers: tuple[str, ...] = REFERENCE_PEERS


def best_limits(measured: list[Limits]) -> Limits:
    """The best value of each limit over several measurements."""
    merged: Limits = {}
    for key in measured[0]:
        values = [value for limits in measured if (value := limits[key]) is not None]
        merged[key] = max(values) if values else None
    return merged


def format_table(header: list[str], rows: list[list[str]]) -> str:
    """Left-aligned first and last column, right-aligned numbers between."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    last = len(header) - 1
    lines = []
    for row in [header, *rows]:
        cells = [row[i].ljust(widths[i]) if i in (0, last) else row[i].rjust(widths[i]) for i in range(last + 1)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def ratio_cells(measurement: Measurement, others: list[Measurement], peers: tuple[str, ...]) -> list[str]:
    """How many times faster than each reference peer; a dash where that peer did not run."""
    medians = {other.contender: other.median_s for other in others}
    return [f"{medians[peer] / measurement.median_s:.2f}x" if peer in medians else "-" for peer in peers]


def workload_rows(
    measurements: list[Measurement], num_documents: int, gflop: float, peers: tuple[str, ...]
) -> list[list[str]]:
    """One row per contender: rate or latency, its range, rate without tokenization, error, ratios, settings."""
    rows = []
    for m in measurements:
        without = m.median_without_tokenization_s
        low, high = m.shown_range(num_documents)
        tau = "-" if m.kendall_tau is None else f"{m.kendall_tau:.4f}"
        load = f"{statistics.median(sample.foreign_cores for sample in m.reported):.2f}{'' if m.is_clean else '!'}"
        rate_without = "-" if without is None else f"{shown(without, num_documents):.1f}"
        speed = [f"{shown(m.median_s, num_documents):.1f}", f"{low:.1f}..{high:.1f}", rate_without]
        quality = [f"{gflop / m.median_s:.0f}", f"{m.max_abs_error:.1e}", tau, load]
        rows.append([m.contender, *speed, *quality, *ratio_cells(m, measurements, peers), m.settings])
    return rows


def format_model(result: ModelResult) -> str:
    """The tables of one model."""
    parts = []
    for workload in result.workloads:
        chosen = [m for m in result.measurements if m.workload == workload.name]
        num_documents, seqlens = len(workload.documents), workload.pair_seqlens
        unit = "pairs/s" if num_documents > 1 else "ms"
        size = f"{num_documents} pair(s) of {min(seqlens)}..{max(seqlens)} tokens, mean {np.mean(seqlens):.0f}"
        header = ["contender", unit, "min..max", f"{unit} w/o tok.", "GFLOP/s", "max |err|", "tau", "foreign"]
        header += [f"vs {peer}" for peer in result.peers] + ["settings"]
        rows = workload_rows(chosen, num_documents, result.gflop[workload.name], result.peers)
        parts.append(f"{result.model}, {size}\n{format_table(header, rows)}")
    parts += [f"skipped {name}: {reason}" for name, reason in result.skipped.items()]
    return "\n\n".join(parts)


def format_limits(limits: Limits) -> str:
    """One line about the machine."""
    known = [f"{key} {value:.0f}" for key, value in limits.items() if value is not None]
    return "machine limits: " + ", ".join(known)


def model_json(result: ModelResult) -> dict[str, Any]:
    """One model as plain data, every sample included."""
    workloads = {
        w.name: {
            "num_documents": len(w.documents),
            "pair_seqlens": w.pair_seqlens,
            "useful_gflop": result.gflop[w.name],
            "num_reference_documents": len(result.reference[w.name]),
            "reference_logits_std": float(result.reference[w.name].std()),
            "reference_logits_max_abs": float(np.abs(result.reference[w.name]).max()),
        }
        for w in result.workloads
    }
    measurements = samples_json(result.measurements)
    return {"model": result.model, "workloads": workloads, "measurements": measurements, "skipped": result.skipped}


def samples_json(measurements: list[Measurement]) -> list[dict[str, Any]]:
    """Every measurement with all its samples."""
    return [dataclasses.asdict(m) | {"median_s": m.median_s, "is_clean": m.is_clean} for m in measurements]


def as_json(results: list[ModelResult]) -> list[dict[str, Any]]:
    """The whole run as plain data."""
    return [model_json(result) for result in results]
