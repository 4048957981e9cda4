"""The commands in one list, and what is done to the command line before it is parsed."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from assay.cli.about import check, info
from assay.cli.classify import classify
from assay.cli.doctor import doctor
from assay.cli.plan import plan
from assay.cli.rank import rerank, score
from assay.cli.serve import serve
from assay.dotted_options import fold_dotted_options

JSON_OPTIONS = ("pooler-config", "override-pooler-config", "hf-overrides", "chat-template-kwargs")
"""Options that may be given key by key: `--pooler-config.task X`."""

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


for command in (classify, score, rerank, info, check, plan, doctor):
    app.command()(command)
# The server reads its own options: `python -m assay.server` is the same program without this one around it.
app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(serve)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="backslashreplace")
    given = sys.argv[1:] if arguments is None else arguments
    app(args=fold_dotted_options(given, JSON_OPTIONS), prog_name="assay")
