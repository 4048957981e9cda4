"""The commands in one list, and what is done to the command line before it is parsed."""

from __future__ import annotations

import json
import re
import sys
from typing import Annotated

import typer

from assay.cli.about import check, info
from assay.cli.classify import classify
from assay.cli.doctor import doctor
from assay.cli.rank import rerank, score

DOTTED_OPTION = re.compile(
    r"--((?:override[-_])?pooler[-_]config|hf[-_]overrides|chat[-_]template[-_]kwargs)\.([A-Za-z_][\w-]*)(?:=(.*))?",
    re.S,
)

app = typer.Typer(
    name="assay",
    help="Which class, how relevant, how good: classify, score and rerank text.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
)


def _print_version(wanted: bool) -> None:
    if wanted:
        import assay

        print(f"assay {assay.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options in front of the command."""
    del version


for command in (classify, score, rerank, info, check, doctor):
    app.command()(command)


def fold_dotted_options(arguments: list[str]) -> list[str]:
    """Rewrite `--pooler-config.task X` as `--pooler-config '{"task": "X"}'`; values are JSON where they parse as it."""
    folded: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        match = DOTTED_OPTION.fullmatch(argument)
        if match is None:
            folded.append(argument)
            if argument == "--":
                break
            continue
        option, key, value = match.groups()
        value = next(rest, None) if value is None else value
        if value is None:  # nothing follows: let the parser say so
            folded.append(f"--{option}")
            break
        folded += [f"--{option}", json.dumps({key.replace("-", "_"): _json_or_text(value)})]
    return [*folded, *rest]


def _json_or_text(value: str) -> object:
    try:
        return json.loads(value)
    except ValueError:
        return value


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="backslashreplace")
    app(args=fold_dotted_options(sys.argv[1:] if arguments is None else arguments), prog_name="assay")
