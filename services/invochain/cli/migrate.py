"""`invochain migrate`: bring the databases to this release, or say where they are."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer


class Target(StrEnum):
    """Which database; `all` are those whose URL is set."""

    merchant = "merchant"
    inventory = "inventory"
    invoice = "invoice"
    broker = "broker"
    all = "all"


def register(app: typer.Typer) -> None:
    app.command("migrate")(migrate)


def migrate(
    room: Annotated[Target, typer.Argument(help="Which database.")] = Target.all,
    down_to: Annotated[
        int | None, typer.Option(min=0, help="Undo the migrations above this number, their data with them.")
    ] = None,
    sequence: Annotated[
        str, typer.Option(help="With --down-to: the sequence to undo, if not the room's own (durable).")
    ] = "",
    status: Annotated[bool, typer.Option("--status", help="Only say what is applied.")] = False,
) -> None:
    """Apply the numbered migrations that are missing. Safe to repeat, and while the previous release serves."""
    from invochain.chassis import migrate as migrations
    from invochain.chassis.settings import settings

    if down_to is not None and room is Target.all:
        raise typer.BadParameter("name the database to undo migrations of", param_hint="ROOM")
    if down_to is not None and status:
        raise typer.BadParameter("--status changes nothing; give it or --down-to")

    async def work() -> None:
        for name in _names(room, settings()):
            dsn = settings().database_url(name)
            if status:
                for line in await migrations.status(dsn, name):
                    typer.echo(f"{name:9}  {line.applied_at or 'not applied':32}  {line.label}")
                continue
            if down_to is None:
                done, word = await migrations.migrate(dsn, name), "applied"
            else:
                done, word = await migrations.down(dsn, name, down_to, sequence=sequence), "undone"
            typer.echo(f"{name}: " + (f"{word} {', '.join(done)}" if done else "nothing to do"))

    try:
        asyncio.run(work())
    except migrations.MigrationRefused as refused:
        typer.echo(f"migrate: {refused}", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        typer.echo(f"migrate: the database cannot be reached: {error}", err=True)
        raise typer.Exit(1) from None


def _names(room: Target, config: object) -> list[str]:
    """The databases meant; with `all`, those whose URL is set, of which there must be one."""
    if room is not Target.all:
        return [room.value]
    every = [target.value for target in Target if target is not Target.all]
    names = [name for name in every if getattr(config, f"{name}_database_url")]
    if not names:
        typer.echo("migrate: no INVOCHAIN_*_DATABASE_URL is set; `invochain up` sets them for you", err=True)
        raise typer.Exit(1)
    return names
