"""`assay serve`: the HTTP server, on this command line."""

from __future__ import annotations

import typer

from assay.cli.guard import guarded


@guarded
def serve(context: typer.Context) -> None:
    """Serve models over HTTP; `assay serve --help` lists its options."""
    from assay.server.launch import main

    raise typer.Exit(main(context.args, program="assay serve"))
