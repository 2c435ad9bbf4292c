"""The real thing under the machine: services, servers and workers in this process, one round at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import grpc

from invochain import core
from invochain.api.invoice.v1.invoice_service_pb2_grpc import InvoiceServiceStub
from invochain.chassis import faults
from invochain.chassis.ids import to_text
from invochain.chassis.server import Server
from invochain.check.check_all import check_rule, chosen
from invochain.check.snapshot import Databases
from invochain.errors import DependencyDown
from invochain.invoice import service as invoice_service
from invochain.workers import process
from invochain.workers.consumer import Listener, subscriptions
from invochain.workers.rooms import Rooms
from tests.integration.invoice.probes import flush, settle
from tests.kit.market import Market, Refused, Trader, open_market
from tests.kit.servers import PostgresServer, ValkeyServer

# Not done by this call, and no answer either: asked again until there is one (PROTOCOL R8, 7).
AGAIN = {"CONCURRENT_REQUEST", "DEPENDENCY_DOWN", "CIRCUIT_OPEN", "DEADLINE_TOO_SHORT", "BULKHEAD_FULL"}
ANSWER_S = 20


class Floor:
    """Services of one market, and the hands that move what runs beside them."""

    def __init__(self, market: Market, stack: AsyncExitStack) -> None:
        self.market, self.loop = market, asyncio.get_running_loop()
        self._stack = stack
        self._rooms = Rooms(market.settings)
        self._databases = Databases(market.settings)
        self._sql: dict[str, asyncpg.Connection] = {}
        self._reach = faults.reach
        self.listeners: dict[str, Listener] = {}
        self.relays: list[Any] = []

    def run(self, work: Any) -> Any:
        """Runs a coroutine to its end; between two of these nothing moves."""
        return self.loop.run_until_complete(work)

    async def open(self) -> None:
        for room in ("inventory", "invoice"):
            self._sql[room] = await asyncpg.connect(self.market.databases[room])
            self._stack.push_async_callback(self._sql[room].close)
        self._stack.push_async_callback(self._databases.close)
        self._stack.push_async_callback(self._rooms.close)
        self.relays = await process.make(self.market.settings, self._rooms, ["relay"])
        broker = await self._rooms.broker()
        for room in self._rooms.names:
            for one in await subscriptions(self._rooms, room):
                listener = Listener(one, broker, await self._rooms.parking(room), wait_s=0)
                self.listeners[one.consumer.split(".")[-1]] = self._rooms.closed_at_end(listener)

    # ---- calls

    async def ask(self, method: str, request: Any, who: Trader, key: str | None) -> tuple[Any, bool]:
        """The final answer, message or Refused, and whether it was told to be a repeat.

        The second is None where the first try was left without an answer: it may have been done all the same.
        """
        tries = 0
        async with asyncio.timeout(ANSWER_S):
            while True:
                tries += 1
                answer, replayed = await self.once(method, request, who, key)
                if not (isinstance(answer, Refused) and answer.reason in AGAIN):
                    return answer, replayed if tries == 1 else None
                await asyncio.sleep((answer.retry_ms or 100) / 1_000)

    async def once(self, method: str, request: Any, who: Trader, key: str | None) -> tuple[Any, bool]:
        """One try. What it left to be done behind its answer is done when this returns."""
        stub = self.market.inventory if method == "AdjustStock" else self.market.invoices
        try:
            answer = await self.market.call(getattr(stub, method), request, who, key)
            replayed = self.market.last_metadata.get("x-idempotent-replayed") == "true"
        except grpc.aio.AioRpcError as error:
            answer = Refused.of(error)
            replayed = answer.replayed
        await self.room.drain()
        return answer, replayed

    @property
    def room(self) -> Any:
        """The invoice service's own things."""
        return self.market.running["invoice"][1].servicers[0]._room

    # ---- trouble

    async def flush(self) -> None:
        await flush(self.market)

    async def restart(self) -> None:
        """The invoice service ends in order, and another one begins on the same databases, at another address."""
        await self.stop()
        running = await invoice_service.start(self.market.settings)
        server = Server("invoice", running.authenticator)
        for servicer in running.servicers:
            server.add(servicer)
        port = await server.start("127.0.0.1:0")
        self.market.running["invoice"] = (server, running)
        self.market.channels["invoice"] = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.market.invoices = InvoiceServiceStub(self.market.channels["invoice"])

    async def stop(self) -> None:
        server, running = self.market.running["invoice"]
        await self.market.channels["invoice"].close()
        await server.drain(2)
        await running.close()

    async def dies_holding(self, request: Any, who: Trader, key: str) -> Any:
        """A creation that holds its stock and decides nothing (PROTOCOL 6, row 3)."""

        async def reach(step: str) -> None:
            if step == "decide.begin":
                raise DependencyDown("a process that died")

        faults.reach = reach
        try:
            return (await self.once("CreateInvoice", request, who, key))[0]
        finally:
            faults.reach = self._reach

    @asynccontextmanager
    async def settlers_lost(self) -> AsyncIterator[None]:
        """What is to be confirmed or released behind the answers is forgotten (PROTOCOL 6, row 6)."""
        settlers = self.room.settlers
        for one in (settlers.confirm, settlers.release):
            one.soon = lambda holds: None
        try:
            yield
        finally:
            for one in (settlers.confirm, settlers.release):
                del one.soon

    # ---- workers

    async def relay(self) -> None:
        """The relays publish until their outboxes are empty."""
        for relay in self.relays:
            while await relay.run_once():
                pass

    async def consume(self, name: str) -> None:
        """A consumer reads to the end of its topic."""
        while await self.listeners[name].run_once():
            pass

    async def resolve(self) -> None:
        """A round of the resolver in which no hold is too young: nothing is under way."""
        await settle(self.market, abort_after_ms=0)

    # ---- what is so

    async def stock(self, traders: list[Trader]) -> dict[tuple[int, str], list[int]]:
        """Units on hand and reserved, of each trader's SKUs."""
        number = {trader.merchant_id: index for index, trader in enumerate(traders)}
        rows = await self._sql["inventory"].fetch(
            "SELECT merchant_id, sku, on_hand_milli, reserved_milli FROM stock WHERE merchant_id = ANY ($1::uuid[])",
            [trader.merchant.merchant_id for trader in traders],
        )
        return {
            (number[row["merchant_id"].bytes], row["sku"]): [
                row["on_hand_milli"] / 1_000,
                row["reserved_milli"] / 1_000,
            ]
            for row in rows
        }

    async def invoices(self, traders: list[Trader]) -> set[tuple[str, str, int]]:
        rows = await self._sql["invoice"].fetch(
            "SELECT invoice_id, state, version FROM invoice WHERE merchant_id = ANY ($1::uuid[])",
            [trader.merchant.merchant_id for trader in traders],
        )
        return {(str(row["invoice_id"]), row["state"], row["version"]) for row in rows}

    async def decisions(self, traders: list[Trader]) -> dict[bytes, str]:
        """The state of each decision about invoices, by request id."""
        rows = await self._sql["invoice"].fetch(
            "SELECT rid, state FROM decision WHERE merchant_id = ANY ($1::uuid[])",
            [trader.merchant.merchant_id for trader in traders],
        )
        return {row["rid"].bytes: row["state"] for row in rows}

    async def is_released(self, who: Trader, key: str) -> bool:
        """Whether the first attempt's hold is given back."""
        rid = core.request_id(who.merchant_id, "invoice.create", key)
        state = await self._sql["inventory"].fetchval(
            "SELECT state FROM reservation WHERE merchant_id = $1 AND rid = $2 AND attempt = 1",
            who.merchant.merchant_id,
            to_text(rid),
        )
        return bool(state == "RELEASED")

    async def broken(self, *, at_rest: bool) -> dict[str, list[str]]:
        """Invariants that do not hold: those that hold in any snapshot, at rest all of them."""
        rules = [rule for rule in chosen() if at_rest or rule.when == "always"]
        found = [await check_rule(self._databases, rule, 0) for rule in rules]
        return {one.rule.name: one.examples for one in found if one.violations}


@asynccontextmanager
async def open_floor(postgres: PostgresServer, valkey: ValkeyServer, folder: Path) -> AsyncIterator[Floor]:
    async with AsyncExitStack() as stack:
        market = await open_market(stack, postgres, valkey, folder)
        floor = Floor(market, stack)
        first = market.running["invoice"]
        await floor.open()
        yield floor
        if market.running["invoice"] is not first:
            await floor.stop()
