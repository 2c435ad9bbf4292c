"""Pools: refused at the start if they could wait on themselves; exhausted, they answer at once and are not stuck."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.chassis.pools import PoolRefused
from invochain.chassis.postgres import Postgres
from invochain.inventory import service as inventory_service
from invochain.invoice import service as invoice_service
from invochain.merchant import service as merchant_service
from tests.integration.invoice.probes import age_holds, hold_states, outcome
from tests.integration.invoice.test_neighbours import room_of
from tests.kit.market import QUICK, Market, Refused

# The promise. Here three services and their callers share one process: what it stood still is not theirs to answer for.
ANSWERED_WITHIN_S = 0.3
# And by the wall, however busy the machine.
WALL_S = 1.5
HELD_S = 2.0


@asynccontextmanager
async def exhausted(postgres: Postgres) -> AsyncIterator[None]:
    """Every connection of a pool is in use; back at the end."""
    async with AsyncExitStack() as stack:
        for _ in range(postgres._pool.get_max_size()):
            await stack.enter_async_context(postgres.reading(10))
        yield


class Standstill:
    """When this process stood still: collecting garbage, or not given a processor."""

    EVERY_S = 0.005

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []

    async def watch(self) -> None:
        while True:
            slept = time.monotonic()
            await asyncio.sleep(self.EVERY_S)
            self._late.append((slept + self.EVERY_S, time.monotonic()))

    def within(self, begun: float, ended: float) -> float:
        """Seconds of it between two moments."""
        return sum(max(0.0, min(ended, to) - max(begun, since)) for since, to in self._late)


class TestAtTheStart:
    @pytest.mark.parametrize(
        ("service", "room", "size", "slots", "least"),
        [
            (invoice_service, "invoice", 4, 1, 7),
            (invoice_service, "invoice", 8, 3, 11),
            (inventory_service, "inventory", 5, 1, 6),
            (inventory_service, "inventory", 8, 4, 9),
        ],
    )
    async def test_a_pool_that_could_wait_on_itself_is_refused(self, market, service, room, size, slots, least):
        """The message names the setting, what was found and what is wanted, and for what."""
        settings = market.settings.model_copy(update={"pool_size": size, "batch_slots": slots})
        with pytest.raises(PoolRefused) as refused:
            await service.start(settings)
        assert f"INVOCHAIN_POOL_SIZE is {size}" in str(refused.value)
        assert f"the {room} service wants {least} or more: " in str(refused.value)

    @pytest.mark.parametrize(("service", "slots"), [(invoice_service, 1), (inventory_service, 1)])
    async def test_the_least_that_is_wanted_is_enough(self, market, service, slots):
        size = sum(service.connections(slots).values())
        running = await service.start(market.settings.model_copy(update={"pool_size": size, "batch_slots": slots}))
        await running.close()

    @pytest.mark.parametrize("processes", [1, 4])
    async def test_more_than_the_server_grants_is_refused(self, market, processes):
        """The pools of a service's processes are added up."""
        (row,) = await market.sql("merchant", "SELECT current_setting('max_connections')::int - 3 AS granted")
        most = row["granted"] // processes
        settings = market.settings.model_copy(update={"pool_size": most + 1, "processes": processes})
        with pytest.raises(PoolRefused) as refused:
            await merchant_service.start(settings, QUICK)
        assert f"INVOCHAIN_POOL_SIZE is {most + 1}" in str(refused.value)
        assert f"grants {row['granted']} connections" in str(refused.value)
        assert f"{most} or fewer are wanted" in str(refused.value)

    async def test_more_than_the_role_is_granted_is_refused(self, market, market_postgres):
        superuser = await asyncpg.connect(market_postgres.dsn())
        await superuser.execute("ALTER ROLE merchant CONNECTION LIMIT 30")
        try:
            with pytest.raises(PoolRefused, match=r"grants 30 connections \(CONNECTION LIMIT of the role\)"):
                await merchant_service.start(market.settings.model_copy(update={"pool_size": 31}), QUICK)
        finally:
            await superuser.execute("ALTER ROLE merchant CONNECTION LIMIT -1")
            await superuser.close()


class TestAnExhaustedPool:
    async def test_answers_at_once_holds_nothing_and_recovers(self, market: Market, seller, buyer):
        """Creations, moves and reads are told so, again and again; health stays up; given back, it serves at once."""
        room = room_of(market)
        issued = await market.issue(seller, market.invoice(buyer, market.line(1)))
        took: list[tuple[float, float]] = []
        still = Standstill()

        async def ask(n: int) -> None:
            request = market.invoice(buyer, market.line(1))
            accept = pb.AcceptInvoiceRequest(invoice_id=issued.invoice_id)
            get = pb.GetInvoiceRequest(invoice_id=issued.invoice_id)
            method, body, who = (
                (market.invoices.CreateInvoice, request, seller),
                (market.invoices.AcceptInvoice, accept, buyer),
                (market.invoices.GetInvoice, get, seller),
            )[n % 3]
            while time.monotonic() < until:
                begun = time.monotonic()
                told = await outcome(market, method, body, who)
                took.append((begun, time.monotonic()))
                assert isinstance(told, Refused), told
                assert (told.code, told.reason) == ("RESOURCE_EXHAUSTED", "BULKHEAD_FULL")
                await asyncio.sleep(0.05)

        health = health_pb2_grpc.HealthStub(market.channels["invoice"])
        async with exhausted(room.postgres):
            watching = asyncio.create_task(still.watch())
            until = time.monotonic() + HELD_S
            asking = asyncio.gather(*(ask(n) for n in range(21)))
            while not asking.done():
                told = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
                assert told.status == health_pb2.HealthCheckResponse.SERVING
                await asyncio.sleep(0.1)
            await asking
            watching.cancel()
        given_back = time.monotonic()
        await market.issue(seller, market.invoice(buyer, market.line(1)))
        assert time.monotonic() - given_back < WALL_S
        assert max(ended - begun - still.within(begun, ended) for begun, ended in took) < ANSWERED_WITHIN_S
        assert max(ended - begun for begun, ended in took) < WALL_S
        # Nothing was reserved for what could not be decided; the last one may still wait for its confirmation.
        assert len(await market.sql("inventory", PENDING, seller.merchant.merchant_id)) <= 1

    async def test_of_the_handlers_does_not_keep_the_resolver_from_its_work(self, market: Market, seller, buyer):
        """Separate pools: a hold that waits is settled while no handler finds a connection."""
        room = room_of(market)
        await market.issue(seller, market.invoice(buyer, market.line(1)))

        async def confirmed() -> bool:
            return set((await hold_states(market, seller)).values()) == {"HELD"}

        await market.until(confirmed)
        await market.sql("inventory", "UPDATE reservation SET state = 'PENDING' WHERE state = 'HELD'")
        await age_holds(market, 31, seller)
        async with exhausted(room.postgres):
            await market.work("resolver")
            await market.until(confirmed)


PENDING = "SELECT 1 FROM reservation WHERE merchant_id = $1::text::uuid AND state = 'PENDING'"
