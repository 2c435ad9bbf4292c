"""What the workers of one process share: the rooms' databases and the broker, each opened when first asked for."""

from __future__ import annotations

import asyncio
from typing import Protocol, TypeVar

from invochain.chassis import secrets
from invochain.chassis.embedded_broker import EmbeddedBroker
from invochain.chassis.postgres import Postgres
from invochain.chassis.seal import Seal
from invochain.chassis.session import Session
from invochain.chassis.settings import Settings
from invochain.durable.parking import Parking

ROOMS = ("merchant", "inventory", "invoice")


class Closes(Protocol):
    async def close(self) -> None: ...


Closing = TypeVar("Closing", bound=Closes)


class Rooms:
    """Connections by the name of a room. Only rooms whose INVOCHAIN_<ROOM>_DATABASE_URL is set are there."""

    def __init__(self, settings: Settings, stop: asyncio.Event | None = None) -> None:
        """`stop` is set when the process is to end; none: never."""
        self._settings = settings
        self.stop = stop or asyncio.Event()
        self._pools: dict[tuple[str, str], Postgres] = {}
        self._leaders: dict[str, Session] = {}
        self._sessions: list[Session] = []
        self._closing: list[Closes] = []
        self._broker: EmbeddedBroker | None = None
        self._opening = asyncio.Lock()

    @property
    def names(self) -> list[str]:
        """The rooms that are there."""
        return [room for room in ROOMS if getattr(self._settings, f"{room}_database_url")]

    @property
    def has_broker(self) -> bool:
        return bool(self._settings.broker_database_url)

    async def postgres(self, room: str, who: str = "workers") -> Postgres:
        """A pool of background work on a room's database: one for its loops, one for its consumers."""
        async with self._opening:
            if (room, who) not in self._pools:
                # Whose database is away must not keep the loops of the others from running.
                self._pools[room, who] = await Postgres.connect(
                    self._settings.database_url(room),
                    name=room,
                    size=self._settings.background_pool_size,
                    application=f"invochain-{who}",
                    required=False,
                )
            return self._pools[room, who]

    async def parking(self, room: str) -> Parking:
        """Where a room's relay and consumers park events that cannot go on."""
        seal = Seal(secrets.load(self._settings.secrets_dir).dead_letter_key)
        return Parking(await self.postgres(room), seal)

    def session(self, room: str) -> Session:
        """A new session on a room's database, for a worker that divides its work by locks. Closed with the rest."""
        self._sessions.append(Session(self._settings.database_url(room), room))
        return self._sessions[-1]

    def leader(self, room: str) -> Session:
        """The session that keeps the leader locks of a room's workers in this process."""
        if room not in self._leaders:
            self._leaders[room] = self.session(room)
        return self._leaders[room]

    async def broker(self) -> EmbeddedBroker:
        """The event broker."""
        async with self._opening:
            if self._broker is None:
                self._broker = await EmbeddedBroker.connect(self._settings.database_url("broker"))
            return self._broker

    def closed_at_end(self, worker: Closing) -> Closing:
        """Closes a worker's own connections before the shared ones."""
        self._closing.append(worker)
        return worker

    async def close(self) -> None:
        """Ends the sessions first, so that their locks are free at once, then the pools."""
        for worker in self._closing:
            await worker.close()
        for session in self._sessions:
            await session.close()
        if self._broker is not None:
            await self._broker.close()
        for pool in self._pools.values():
            await pool.close()
