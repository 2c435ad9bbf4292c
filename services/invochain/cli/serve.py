"""`invochain serve ROOM`: one service, in the foreground."""

from __future__ import annotations

import importlib
from enum import StrEnum

import typer


class Room(StrEnum):
    """The services."""

    merchant = "merchant"
    inventory = "inventory"
    invoice = "invoice"


def register(app: typer.Typer) -> None:
    app.command("serve")(serve)


def serve(room: Room) -> None:
    """Serve one room over gRPC until told to stop. Settings: INVOCHAIN_*."""
    from invochain.chassis import process
    from invochain.chassis.settings import settings

    service = importlib.import_module(f"invochain.{room.value}.service")
    address = getattr(settings(), f"{room.value}_address")
    process.run(process.serve(room.value, service.start, address))
