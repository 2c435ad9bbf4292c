"""Settles stock holds whose request died on the way, by the decision row (invoice/resolve_sagas.py)."""

from __future__ import annotations

import asyncio

from invochain.chassis import secrets
from invochain.chassis.channel import Channel
from invochain.chassis.postgres import Postgres
from invochain.chassis.settings import Settings
from invochain.chassis.tokens import ServiceIdentity
from invochain.invoice.give_up import Tries
from invochain.invoice.inventory_port import InventoryPort
from invochain.invoice.resolve_sagas import resolve
from invochain.workers import Worker
from invochain.workers.rooms import Rooms

INTERVAL_S = 1.0
# Each has a leader of its own, so that several processes share the work.
PARTITIONS = 4


class Resolver:
    """The loop of one partition."""

    room = "invoice"
    interval_s = INTERVAL_S

    def __init__(
        self, postgres: Postgres, inventory: InventoryPort, partition: int, abort_after_ms: int, stop: asyncio.Event
    ) -> None:
        self.name = f"resolver-{partition}"
        self._postgres, self._inventory, self._partition = postgres, inventory, partition
        self._abort_after_ms, self._ending = abort_after_ms, stop
        self._tries = Tries()

    async def run_once(self) -> int:
        found = await resolve(
            self._postgres,
            self._inventory,
            partition=self._partition,
            partitions=PARTITIONS,
            abort_after_ms=self._abort_after_ms,
            tries=self._tries,
            stop=self._ending,
        )
        # What was left is young: it is looked at again after the pause, not at once.
        return 0 if found.left else found.confirmed + found.released


async def build(settings: Settings, rooms: Rooms) -> list[Worker]:
    """The resolvers, where the invoice database is there."""
    if "invoice" not in rooms.names:
        return []
    identity = ServiceIdentity("workers", secrets.load(settings.secrets_dir))
    port = rooms.closed_at_end(InventoryPort(Channel(settings.inventory_address, identity, "the inventory")))
    # A pool of its own: neither handlers nor other loops can keep it from its work.
    postgres = await rooms.postgres("invoice", "resolver")
    return [Resolver(postgres, port, partition, settings.abort_after_ms, rooms.stop) for partition in range(PARTITIONS)]
