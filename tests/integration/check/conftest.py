"""Databases in which was traded and that are at rest, to copy from: each test may ruin its own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import asyncpg
import pytest

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.chassis.settings import Settings
from invochain.check.check_all import Found, check_all
from tests.kit.market import Market, Trader, fresh_key, open_market
from tests.kit.servers import PostgresServer, ValkeyServer

_numbers = itertools.count(1)


async def trade(market: Market, seller: Trader, buyer: Trader) -> None:
    """Issued, repeated, accepted, rejected, cancelled, edited, refused for want of stock, and a batch."""
    invoices, line = market.invoices, market.line
    key = fresh_key()
    issued = [await market.issue(seller, market.invoice(buyer), key) for _ in range(2)]
    assert issued[0] == issued[1]
    issued = issued[:1] + [await market.issue(seller, market.invoice(buyer)) for _ in range(5)]
    await market.issue(seller, market.invoice(buyer, line(sku=""), number="OWN/1"))
    await market.issue(seller, market.invoice(buyer, line(3, 333), line(7, gst_rate_milli=5_000), line(1, 7)))
    ids = [invoice.invoice_id for invoice in issued]
    await market.call(invoices.AcceptInvoice, pb.AcceptInvoiceRequest(invoice_id=ids[0]), buyer)
    await market.call(invoices.AcceptInvoice, pb.AcceptInvoiceRequest(invoice_id=ids[1]), buyer)
    await market.call(invoices.RejectInvoice, pb.RejectInvoiceRequest(invoice_id=ids[2], reason="price"), buyer)
    await market.call(invoices.CancelInvoice, pb.CancelInvoiceRequest(invoice_id=ids[3]), seller)
    await market.call(invoices.RequestEdit, pb.RequestEditRequest(invoice_id=ids[4], reason="date"), buyer)
    refused = await market.refused(invoices.CreateInvoice, market.invoice(buyer, line(5_000)), seller)
    assert refused.reason == "INSUFFICIENT_STOCK"
    items = [
        pb.BatchCreateInvoicesItem(invoice=market.invoice(buyer, one).invoice, idempotency_key=fresh_key())
        for one in (line(2), line(9_000), line(4), line(1, sku=""))
    ]
    batch = await market.call(invoices.BatchCreateInvoices, pb.BatchCreateInvoicesRequest(items=items), seller, None)
    assert [result.HasField("error") for result in batch.results] == [False, True, False, False]


def hits(found: list[Found]) -> dict[str, list[str]]:
    """Broken invariants and their examples."""
    return {one.rule.name: one.examples for one in found if one.violations}


@dataclass(frozen=True)
class Traded:
    """Settings whose databases are at rest. Nobody is connected to them; they are never written to."""

    settings: Settings
    superuser: asyncpg.Connection
    server: PostgresServer


@pytest.fixture(scope="module")
async def traded(
    templates: PostgresServer, market_valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Traded]:
    folder = tmp_path_factory.mktemp("market")
    superuser = await asyncpg.connect(templates.dsn())
    dsns = {}
    async with AsyncExitStack() as stack:
        market = await open_market(stack, templates, market_valkey, folder)
        async with AsyncExitStack() as working:
            market.stack = working
            await market.work("relay", "consumer", "resolver")
            # Interstate and within one state: IGST, and CGST with SGST.
            seller, buyer, far = [await market.register(state) for state in ("27", "27", "29")]
            await market.stock_up(seller, units=1_000)
            # What this buyer keeps under that name is counted otherwise: it gets the goods under the server's own SKU.
            await market.stock_up(buyer, units=5, unit="KGS")
            await trade(market, seller, buyer)
            await trade_once(market, seller, far)

            async def at_rest() -> bool:
                return not hits(await check_all(market.settings, 0, ["I5", "I7", "I15", "I16"]))

            await market.until(at_rest, within_s=40)
        for room, dsn in market.databases.items():
            source = dsn.split("?")[0].rsplit("/", 1)[-1]
            await copy(superuser, source, f"traded_{source}", room)
            dsns[room] = templates.dsn(room, f"traded_{source}")
        settings = market.settings.model_copy(update={f"{room}_database_url": dsn for room, dsn in dsns.items()})
    yield Traded(settings, superuser, templates)
    for dsn in dsns.values():
        await superuser.execute(f"DROP DATABASE {dsn.split('?')[0].rsplit('/', 1)[-1]} WITH (FORCE)")
    await superuser.close()


async def trade_once(market: Market, seller: Trader, buyer: Trader) -> None:
    invoice = await market.issue(seller, market.invoice(buyer, market.line(3, 77)))
    request = pb.AcceptInvoiceRequest(invoice_id=invoice.invoice_id)
    await market.call(market.invoices.AcceptInvoice, request, buyer)


async def copy(superuser: asyncpg.Connection, source: str, name: str, owner: str) -> None:
    """Copies a database; who is connected to it is sent away."""
    async with asyncio.timeout(30):
        while True:
            await superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", source)
            try:
                await superuser.execute(f"CREATE DATABASE {name} TEMPLATE {source} OWNER {owner}")
                return
            except asyncpg.ObjectInUseError:
                continue


@dataclass
class Copies:
    """The settings of a test: the databases at rest, and copies of those that it wants to write to."""

    traded: Traded
    settings: Settings
    made: list[str]

    async def own(self, *rooms: str) -> None:
        for room in rooms:
            source = self.dsn(room).split("?")[0].rsplit("/", 1)[-1]
            name = f"check_{room}_{next(_numbers)}"
            await copy(self.traded.superuser, source, name, room)
            self.made.append(name)
            url = {f"{room}_database_url": self.traded.server.dsn(room, name)}
            self.settings = self.settings.model_copy(update=url)

    def dsn(self, room: str) -> str:
        return self.settings.database_url(room)

    async def sql(self, room: str, text: str) -> None:
        connection = await asyncpg.connect(self.dsn(room))
        try:
            await connection.execute(text)
        finally:
            await connection.close()


@pytest.fixture
async def copies(traded: Traded) -> AsyncIterator[Copies]:
    made = Copies(traded, traded.settings, [])
    yield made
    for name in made.made:
        await traded.superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")
