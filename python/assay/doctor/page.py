"""The report as one web page that needs nothing else: styles and drawings are inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.doctor.plots import histogram, scatter
from assay.doctor.words import facts, figure, verdict_words

if TYPE_CHECKING:
    from assay.doctor.report import Report

TEMPLATE = Path(__file__).with_name("page.html.jinja")
WORST = 20
"""Rows of the table."""
PLOT = (56.0, 16.0, 440.0, 400.0)
"""Left, top, right and bottom of both drawings, in a box of 456 x 440."""
SHOWN_LOGITS = 4


def render(report: Report) -> str:
    """The page as HTML."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    worst = _worst(report)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        report=report,
        verdict_words=verdict_words(report),
        facts=facts(report),
        scatter=scatter(report.cases, report.allowed, PLOT),
        plot=PLOT,
        histogram=histogram(report.cases, report.allowed, PLOT),
        worst=worst,
        has_remarks=any(row["note"] for row in worst),
        figure=figure,
    )


def _worst(report: Report) -> list[dict[str, Any]]:
    """The inputs with the largest errors, first those that could not be compared at all."""
    pairs = list(zip(report.examples, report.cases, strict=True))

    def badness(index: int) -> tuple[bool, bool, float]:
        difference = pairs[index][1].difference
        error = difference.logit_error
        return difference.token is not None, error is None, error or difference.score_error or 0.0

    rows = []
    for index in sorted(range(len(pairs)), key=badness, reverse=True)[:WORST]:
        example, case = pairs[index]
        difference = case.difference
        error = difference.logit_error
        rows.append(
            {
                "name": example.name,
                "text": _cut(example.text),
                "pair": None if example.pair is None else _cut(example.pair),
                "tokens": len(case.ours.input_ids),
                "ours": _numbers(case.ours.logits),
                "theirs": _numbers(case.theirs.logits),
                "error": error,
                "is_off": error is None or error > report.allowed or difference.token is not None,
                "note": _note(report, index),
            }
        )
    return rows


def _note(report: Report, index: int) -> str:
    difference = report.cases[index].difference
    notes = []
    if difference.token is not None:
        notes.append(f"tokens part at {difference.token.position}")
    if difference.types_differ:
        notes.append("token types differ")
    if difference.top_label_changed:
        notes.append("another label wins")
    return ", ".join(notes)


def _cut(text: str, limit: int = 240) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _numbers(values: Any) -> str:
    flat = values.ravel()
    return ", ".join(f"{value:.4f}" for value in flat[:SHOWN_LOGITS]) + (", …" if flat.size > SHOWN_LOGITS else "")
