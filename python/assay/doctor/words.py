"""The report as text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assay.doctor.report import Report


def figure(value: float | None, digits: int = 3) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}g}"


def facts(report: Report) -> list[tuple[str, str]]:
    """What was compared and what came out, as name and value."""
    setting, totals = report.setting, report.totals
    place = report.first_token_difference
    token = "none"
    if place is not None:
        ours, theirs = ("end" if place[side] is None else str(place[side]) for side in ("ours", "theirs"))
        token = f"input {place['input']!r}, token {place['position']}: {ours} here, {theirs} in transformers"
    reference = "" if setting.reference == setting.model else f" of {setting.reference}"
    versions = ", ".join(f"{name} {version}" for name, version in setting.versions.items())
    return [
        ("model", f"{setting.model}: {setting.architecture}, task {setting.task}, activation {setting.activation}"),
        ("assay", f"{setting.dtype}, {setting.arithmetic}, ISA {setting.isa}"),
        ("reference", f"transformers{reference}, float32, eager, one input at a time ({versions})"),
        ("inputs", f"{len(report.cases)}, at most {setting.max_length} tokens"),
        ("first differing token", token),
        ("logit error", f"max {figure(totals.max_logit_error)}, mean {figure(totals.mean_logit_error)}"),
        ("allowed error", f"{figure(report.allowed)}: {report.basis}"),
        ("score error", f"max {figure(totals.max_score_error)}"),
        ("Kendall tau", figure(totals.kendall_tau, 6)),
        (f"top-{totals.top_k} changes", str(totals.top_k_changes)),
        ("changed by batching", f"{report.batch_changes} of {len(report.cases)}"),
        ("time", f"{report.seconds:.1f} s"),
    ]


def describe(report: Report) -> str:
    """Facts line by line, then the verdict."""
    lines = facts(report)
    width = max(len(name) for name, _ in lines)
    text = [f"{name:<{width}}  {value}" for name, value in lines]
    return "\n".join([*text, "", f"{report.verdict.upper()}: {verdict_words(report)}"])


def verdict_words(report: Report) -> str:
    """The cause as a sentence."""
    if report.agrees:
        return report.cause.detail
    if report.cause.kind == "none":
        return f"results of {report.batch_changes} inputs change with the batch they are in"
    return f"{report.cause.kind}: {report.cause.detail}"
