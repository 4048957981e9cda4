"""Geometry of the report's two drawings; the page's template turns it into SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assay.doctor.cause import Case

MAX_POINTS = 1500
DECADES = (-9, 2)
"""Errors are sorted into half decades between these powers of ten."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A straight scale from values to pixels, with the ticks to draw."""

    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        """Pixels of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """About five round values: pixels and label."""
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
        first = math.ceil(self.low / step)
        values = [step * i for i in range(first, math.floor(self.high / step) + 1)]
        return [(self.at(value), f"{value:g}" if abs(value) > step / 2 else "0") for value in values]


@dataclass(frozen=True, slots=True)
class Scatter:
    """One point per logit: x the reference, y assay; `is_off` marks those beyond the allowed error."""

    x: Axis
    y: Axis
    points: list[tuple[float, float, bool]]
    num_values: int


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of the histogram, in pixels, with what it counts."""

    x: float
    y: float
    width: float
    height: float
    label: str
    is_off: bool


@dataclass(frozen=True, slots=True)
class Histogram:
    """Inputs by their largest logit error, in half decades."""

    x: Axis
    y: Axis
    bars: list[Bar]
    limit_x: float | None
    ticks: list[tuple[float, int]]


def scatter(cases: list[Case], allowed: float, size: tuple[float, float, float, float]) -> Scatter | None:
    """The scatter plot within left, top, right, bottom pixels; None where nothing can be compared."""
    import numpy as np

    pairs = [case for case in cases if case.difference.logit_error is not None]
    if not pairs:
        return None
    ours = np.concatenate([case.ours.logits.ravel() for case in pairs])
    theirs = np.concatenate([case.theirs.logits.ravel() for case in pairs])
    is_off = np.abs(ours - theirs) > allowed
    order = np.argsort(is_off, kind="stable")  # the points that matter are drawn last, on top
    step = max(1, -(-len(order) // MAX_POINTS))
    kept = [i for n, i in enumerate(order.tolist()) if n % step == 0 or is_off[i]][-2 * MAX_POINTS :]
    low, high = float(min(ours.min(), theirs.min())), float(max(ours.max(), theirs.max()))
    margin = 0.06 * (high - low) or 1.0
    left, top, right, bottom = size
    x = Axis(low - margin, high + margin, left, right)
    y = Axis(low - margin, high + margin, bottom, top)
    points = [(x.at(float(theirs[i])), y.at(float(ours[i])), bool(is_off[i])) for i in kept]
    return Scatter(x, y, points, len(ours))


def histogram(cases: list[Case], allowed: float, size: tuple[float, float, float, float]) -> Histogram:
    """The error histogram within left, top, right, bottom pixels; errors below the first bin are counted in it."""
    first, last = 2 * DECADES[0], 2 * DECADES[1]
    counts = [0] * (last - first)
    for case in cases:
        error = case.difference.logit_error
        if error is not None:
            place = first if error <= 0 else math.floor(2 * math.log10(error))
            counts[min(max(place, first), last - 1) - first] += 1
    left, top, right, bottom = size
    x = Axis(DECADES[0], DECADES[1], left, right)
    y = Axis(0, max(1, *counts) * 1.08, bottom, top)
    bars = []
    for index, count in enumerate(counts):
        start = (first + index) / 2
        if count:
            height = bottom - y.at(count)
            width = x.at(start + 0.5) - x.at(start) - 2
            edge = 10.0**start
            label = f"{count} inputs with an error from {edge:.1g} to {10.0 ** (start + 0.5):.1g}"
            bars.append(Bar(x.at(start) + 1, y.at(count), width, height, label, edge >= allowed))
    limit = math.log10(allowed) if allowed > 0 else None
    limit_x = x.at(limit) if limit is not None and DECADES[0] < limit < DECADES[1] else None
    return Histogram(x, y, bars, limit_x, [(x.at(power), power) for power in range(DECADES[0], DECADES[1] + 1, 2)])
