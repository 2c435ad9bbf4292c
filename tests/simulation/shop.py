"""The services of one seed, put together from their own parts, and their end: calm, settled, balanced."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from invochain.api.inventory.v1 import inventory_service_pb2 as stock_pb
from invochain.chassis import clock
from invochain.chassis.batch import Collector
from invochain.chassis.breaker import Breaker
from invochain.chassis.broker import Delivered
from invochain.chassis.pages import Pages
from invochain.chassis.postgres import CommitUnknown
from invochain.chassis.settings import Settings
from invochain.chassis.target import Target
from invochain.durable import outbox
from invochain.errors import Refusal
from invochain.inventory import on_invoice_events
from invochain.inventory.reserve_stock import Reserving
from invochain.inventory.servicer import InventoryServicer
from invochain.inventory.settling import Settling
from invochain.invoice.create_invoice import create_invoices
from invochain.invoice.inventory_port import InventoryPort
from invochain.invoice.outcomes import Outcomes
from invochain.invoice.parties import Parties
from invochain.invoice.resolve_sagas import resolve
from invochain.invoice.room import InvoiceRoom
from invochain.invoice.settle_holds import Settlers
from invochain.workers.consumer import received
from invochain.workers.relay import Relay
from tests.simulation.world import CALM, REQUESTS, Died, Network, OneAtATime, Process, RepeatingBroker, World, here

REQUESTS |= {
    "ReleaseReservations": stock_pb.ReleaseReservationsRequest,
    "ListPendingReservations": stock_pb.ListPendingReservationsRequest,
}
# Two processes of the invoice service: what one has in memory, the other does not.
DOORS = 2


class Everything:
    """Stands for a share of the partitions: there is one relay, and it owns them all."""

    def __init__(self) -> None:
        self.mine = set(range(outbox.PARTITIONS))

    async def balance(self) -> set[int]:
        return self.mine


@dataclass
class Door:
    """One process of the invoice service."""

    process: Process
    room: InvoiceRoom
    creating: Collector


@dataclass
class Shop:
    """All processes of a seed."""

    world: World
    settings: Settings
    audit_key: bytes
    invoice_pool: asyncpg.Pool
    inventory_pool: asyncpg.Pool
    doors: list[Door] = field(default_factory=list)
    inventory: tuple[Process, InventoryServicer] = field(init=False)
    workers: Process = field(init=False)
    relay: Relay = field(init=False)

    def __post_init__(self) -> None:
        self.broker = RepeatingBroker(self.world)
        # How far each consumer has read.
        self.read = {on_invoice_events.SETTLE: 0, on_invoice_events.RECEIVE: 0}
        self.start_inventory()
        self.start_workers()
        self.doors = [self.open_door(number) for number in range(DOORS)]

    def pool(self, room: str) -> OneAtATime:
        postgres = OneAtATime(self.invoice_pool if room == "invoice" else self.inventory_pool, room)
        postgres.world = self.world
        return postgres

    def port(self) -> InventoryPort:
        port = InventoryPort(Network(self.world, lambda: self.inventory))  # type: ignore[arg-type]
        port._target = Target(Breaker("inventory", what="the inventory", now=lambda: clock.monotonic()), retries=True)
        return port

    def start_inventory(self) -> None:
        postgres = self.pool("inventory")
        reserving, settling = Reserving(postgres, self.settings), Settling(postgres, self.settings)
        self.inventory = Process("inventory"), InventoryServicer(postgres, Pages(bytes(32)), reserving, settling)

    def start_workers(self) -> None:
        self.workers = Process("workers")
        postgres = self.pool("invoice")
        # The relay's own session, and a place to park poison, of which there is none here.
        self.relay = Relay("invoice", Session(postgres), self.broker, None)  # type: ignore[arg-type]
        self.relay._share = Everything()  # type: ignore[assignment]

    def open_door(self, number: int) -> Door:
        postgres, inventory = self.pool("invoice"), self.port()
        room = InvoiceRoom(
            postgres=postgres,
            reader=None,  # type: ignore[arg-type]
            inventory=inventory,
            parties=Parties(postgres, Network(self.world, lambda: self.inventory)),  # type: ignore[arg-type]
            outcomes=Outcomes(None, bytes(32)),
            settlers=Settlers(inventory, postgres),
            audit_key=self.audit_key,
            pages=Pages(bytes(32)),
        )
        limits = {"slots": 2, "items_max": 500, "waiting_max": 500}
        creating = Collector("create_invoice", lambda calls: create_invoices(room, calls), **limits)
        return Door(Process(f"invoice-{number}"), room, creating)

    def door(self) -> Door:
        return self.world.dice.choice(self.doors)

    def revive(self) -> None:
        """Starts again what has died."""
        for number, door in enumerate(self.doors):
            if not door.process.alive:
                self.doors[number] = self.open_door(number)
        if not self.inventory[0].alive:
            self.start_inventory()
        if not self.workers.alive:
            self.start_workers()

    # ------------------------------------------------------------ the workers, at any moment

    async def resolve(self) -> int:
        """One round of the resolver. It waits for no age: a decision must be right at any moment."""
        here.set(self.workers)
        found = await resolve(self.pool("invoice"), self.port(), partition=0, partitions=1, abort_after_ms=0)
        return found.confirmed + found.released + found.left

    async def publish(self) -> int:
        """One round of the relay."""
        here.set(self.workers)
        return await self.relay.run_once()

    async def consume(self, consumer: str) -> int:
        """Brings some records to a consumer, sometimes ones that it has had."""
        here.set(self.workers)
        world, log = self.world, self.broker.log
        start = self.read[consumer]
        if world.happens(world.chances.again):
            start = world.dice.randint(0, start)
        end = min(len(log), start + world.dice.randint(1, 4))
        records = [Delivered(topic, 0, at, record) for at, (topic, record) in enumerate(log[start:end], start)]
        events = [received(one) for one in records]
        subscription = next(
            s for s in on_invoice_events.subscriptions(self.pool("inventory")) if s.consumer == consumer
        )
        if chosen := [event for event in events if event.type in subscription.types]:
            await subscription.handle(chosen)
            await world.reach("consumer.handled")
        moved = max(0, end - self.read[consumer])
        self.read[consumer] = max(end, self.read[consumer])
        return moved

    async def work_once(self) -> int:
        """One round of one worker, chosen by the dice; what goes wrong is tried again another time."""
        works = [self.resolve, self.publish, *(lambda name=name: self.consume(name) for name in self.read)]
        return await self._tolerantly(self.world.dice.choice(works))

    async def _tolerantly(self, work: Any) -> int:
        try:
            return await work()
        except (Refusal, CommitUnknown, Died) as failure:
            self.world.note(f"worker failed: {type(failure).__name__}")
            return 1

    async def work_until(self, done: asyncio.Event) -> None:
        """The workers and their supervisor, while clients trade."""
        while not done.is_set():
            await asyncio.sleep(self.world.dice.uniform(0.05, 1.5))
            await self.world.start(self.workers, self.work_once())
            if self.world.dice.random() < 0.3:
                self.revive()

    async def settle(self) -> None:
        """The end: nothing goes wrong any more, what is on its way arrives, the workers run until nothing is left."""
        self.world.chances = CALM
        self.revive()
        await self.world.quiet()
        self.revive()
        for _ in range(50):
            # A relay and a resolver pause after a failure.
            await asyncio.sleep(6)
            works = [self.resolve, self.publish, *(lambda name=name: self.consume(name) for name in self.read)]
            done = [await self.world.start(self.workers, self._tolerantly(work)) for work in works]
            await self.world.quiet()
            if not any(done):
                return
        raise AssertionError("the workers find no end")


class Session:
    """Stands for the relay's session: statements that each stand alone."""

    def __init__(self, postgres: OneAtATime) -> None:
        self.use = postgres.reading


def seeded(seed: int) -> random.Random:
    """The dice of a seed; back-offs and jitter of the services roll the same."""
    random.seed(seed)
    return random.Random(seed)
