"""`assay doctor`: are the answers those of transformers, and if not, why?"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assay.cli.guard import UsageError, fail, guarded
from assay.cli.options import INPUT, OUTPUT, parse_objects
from assay.cli.show import print_json
from assay.cli.texts import read_rows

if TYPE_CHECKING:
    from assay.doctor import Example

AGREES, DISAGREES, COULD_NOT_RUN = 0, 1, 2


@guarded
def doctor(
    model: Annotated[str, typer.Argument(help="A folder, a hub id, or 'demo'.")],
    *,
    data: Annotated[
        Path | None,
        typer.Option(rich_help_panel=INPUT, help="Lines or JSON lines (text, or query and document) to use."),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(rich_help_panel=INPUT, help="Run transformers on this model instead of MODEL.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    hf_overrides: Annotated[
        list[str] | None, typer.Option(metavar="JSON", help="Keys to change in config.json.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0.0, help="Largest logit error that counts as agreement.", show_default="1e-4, relative"),
    ] = None,
    html: Annotated[Path | None, typer.Option(rich_help_panel=OUTPUT, help="Write the report as a web page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT, help="Print one JSON object.")] = False,
) -> None:
    """Run transformers and assay on the same inputs and explain any difference.

    Exit code 0: they agree. 1: they do not. 2: the comparison could not be made.
    """
    from transformers.utils import logging

    from assay.doctor import examine, inputs, page, words

    logging.disable_progress_bar()

    examples = None
    if data is not None:
        rows = read_rows([], [data], is_literal=False, is_json_lines=False)
        examples = [inputs.from_fields(row.fields, row.place) for row in rows]
        if not examples:
            raise UsageError(f"no inputs in {data}")
    overrides = parse_objects("--hf-overrides", hf_overrides) or None
    try:
        report = examine(
            model,
            examples=examples,
            reference=reference,
            revision=revision,
            dtype=dtype,
            hf_overrides=overrides,
            tolerance=tolerance,
            progress=_progress,
        )
    except (ValueError, OSError, ImportError) as err:
        fail(f"could not compare: {err}", COULD_NOT_RUN)
    if html is not None:
        html.write_text(page.render(report), encoding="utf-8")
    if as_json:
        print_json(report.to_dict())
    else:
        print(words.describe(report))
        if html is not None:
            print(f"\nreport page: {html}")
    raise typer.Exit(AGREES if report.agrees else DISAGREES)


def _progress(examples: Iterable[Example]) -> Iterable[Example]:
    from tqdm import tqdm

    bar: Iterable[Example] = tqdm(examples, desc="Compared inputs", disable=not sys.stderr.isatty(), leave=False)
    return bar
