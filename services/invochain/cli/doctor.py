"""`invochain doctor`: what is missing on this machine, and the command that mends it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(
    data_dir: Annotated[Path | None, typer.Option(help="The data folder to look at. Default: as for `up`.")] = None,
) -> None:
    """Say what `invochain up` needs and whether it is here. Changes nothing; exit code 1 when something is missing."""
    from invochain.supervisor.examination import Level, examine

    findings = asyncio.run(examine(data_dir))
    for finding in findings:
        typer.echo(f"{finding.level.value:<8} {finding.subject}: {finding.found}")
        if finding.remedy:
            typer.echo(f"{'':<8} -> {finding.remedy}")
    missing = sum(finding.level is Level.NEEDED for finding in findings)
    if missing:
        typer.echo(f"{missing} missing: `invochain up` cannot start yet")
        raise typer.Exit(1)
    typer.echo("all that `invochain up` needs is here")
