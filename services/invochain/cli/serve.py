"""`invochain serve ROOM`: one service, in the foreground."""

from __future__ import annotations

import asyncio
import importlib
from enum import StrEnum
from typing import Annotated

import typer


class Room(StrEnum):
    """The services."""

    merchant = "merchant"
    inventory = "inventory"
    invoice = "invoice"


def register(app: typer.Typer) -> None:
    app.command("serve")(serve)


def serve(
    room: Room,
    workers: Annotated[
        int,
        typer.Option(min=1, max=64, envvar="INVOCHAIN_SERVICE_WORKERS", help="Processes behind the one port."),
    ] = 1,
) -> None:
    """Serve one room over gRPC until told to stop. Settings: INVOCHAIN_*."""
    from invochain.chassis import process
    from invochain.chassis.settings import settings

    if workers > 1:
        from invochain.supervisor import fleet
        from invochain.supervisor.errors import CannotStart

        try:
            asyncio.run(fleet.serve(room.value, workers, settings()))
        except CannotStart as error:
            raise SystemExit(f"invochain: {error}") from None
        return
    service = importlib.import_module(f"invochain.{room.value}.service")
    address = getattr(settings(), f"{room.value}_address")
    process.run(process.serve(room.value, service.start, address))
