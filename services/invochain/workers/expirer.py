"""Expires partners' holds at their time to live (inventory/expire_reservations.py); never an invoice's."""

from __future__ import annotations

from invochain.chassis.postgres import Postgres
from invochain.chassis.settings import Settings
from invochain.inventory.expire_reservations import expire_due
from invochain.workers import Worker
from invochain.workers.rooms import Rooms

# The shortest life is a second; ending a hold a second late harms nobody.
INTERVAL_S = 1.0


class Expirer:
    """The loop; one leader at a time, though two would do no harm."""

    name, room = "expirer", "inventory"
    interval_s = INTERVAL_S

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def run_once(self) -> int:
        return await expire_due(self._postgres)


async def build(settings: Settings, rooms: Rooms) -> list[Worker]:
    """The expirer, where the inventory's database is there."""
    return [Expirer(await rooms.postgres("inventory"))] if "inventory" in rooms.names else []
