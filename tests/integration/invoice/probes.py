"""What the tests of this room look at: rows behind the doors, invariants, a second door, holds made by hand."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AsyncExitStack
from typing import Any

import grpc
import redis.asyncio as redis

from invochain import core
from invochain.api.inventory.v1 import inventory_service_pb2 as stock_pb
from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.api.invoice.v1.invoice_service_pb2_grpc import InvoiceServiceStub
from invochain.chassis import secrets
from invochain.chassis.channel import Channel
from invochain.chassis.ids import to_text
from invochain.chassis.postgres import Postgres
from invochain.chassis.server import Server
from invochain.chassis.tokens import ServiceIdentity
from invochain.invoice import service as invoice_service
from invochain.invoice.inventory_port import Hold, InventoryPort
from invochain.invoice.read_audit import read_audit
from invochain.invoice.resolve_sagas import Found, resolve
from tests.kit.market import Market, Refused, Trader

INVOICE_TABLES = ("decision", "outbox", "inbox", "invoice", "invoice_item", "audit_entry", "number_series")
INVENTORY_TABLES = ("stock", "reservation", "movement")

# PROTOCOL 15, those that hold in any snapshot of one database. Each lists what breaks it.
ALWAYS = {
    "I1 on hand is the sum of the movements": (
        "inventory",
        """SELECT stock.sku FROM stock LEFT JOIN movement USING (merchant_id, sku)
           GROUP BY stock.merchant_id, stock.sku, stock.on_hand_milli
           HAVING stock.on_hand_milli <> coalesce(sum(movement.delta_milli), 0)""",
    ),
    "I2 reserved is what PENDING and HELD holds hold": (
        "inventory",
        """SELECT stock.sku FROM stock WHERE reserved_milli <> (
             SELECT coalesce(sum(held.quantity), 0) FROM reservation,
               unnest(reservation.skus, reservation.quantities_milli) AS held (sku, quantity)
             WHERE reservation.merchant_id = stock.merchant_id AND held.sku = stock.sku
               AND reservation.state IN ('PENDING', 'HELD'))""",
    ),
    "I4 one lasting hold a request": (
        "inventory",
        """SELECT rid FROM reservation WHERE resolver = 'INVOICE' AND state IN ('HELD', 'COMMITTED', 'REVERSED')
           GROUP BY rid HAVING count(*) > 1""",
    ),
    "I8 a request that failed or is open has no invoice": (
        "invoice",
        """SELECT decision.rid FROM decision JOIN invoice USING (merchant_id, rid)
           WHERE decision.state <> 'SUCCEEDED'""",
    ),
    "I8 a creation that succeeded has its invoice": (
        "invoice",
        """SELECT decision.rid FROM decision LEFT JOIN invoice USING (merchant_id, rid)
           WHERE decision.operation = 'invoice.create' AND decision.state = 'SUCCEEDED' AND invoice.rid IS NULL""",
    ),
    "I9 a series has no gaps": (
        "invoice",
        """SELECT prefix FROM number_series WHERE last_given <> (
             SELECT count(*) FROM invoice WHERE invoice.merchant_id = number_series.merchant_id
               AND starts_with(invoice.number_key, number_series.prefix))""",
    ),
    "I10 the header is the sum of its lines": (
        "invoice",
        """SELECT invoice_id FROM invoice WHERE taxable_paise <> (
             SELECT sum(taxable_paise) FROM invoice_item WHERE invoice_item.merchant_id = invoice.merchant_id
               AND invoice_item.invoice_id = invoice.invoice_id)""",
    ),
    "I12 the version counts the audit entries": (
        "invoice",
        """SELECT invoice.invoice_id FROM invoice LEFT JOIN audit_entry USING (merchant_id, invoice_id)
           GROUP BY invoice.merchant_id, invoice.invoice_id
           HAVING invoice.version <> count(audit_entry.version) OR invoice.version <> max(audit_entry.version)""",
    ),
}


async def broken_invariants(market: Market) -> dict[str, int]:
    """Name of each broken invariant and how many rows break it; empty when all hold."""
    hits = {name: len(await market.sql(room, text)) for name, (room, text) in ALWAYS.items()}
    return {name: count for name, count in hits.items() if count}


async def row_counts(market: Market) -> dict[str, int]:
    """Rows of every table of the invoice and inventory databases."""
    counts = {}
    for room, tables in (("invoice", INVOICE_TABLES), ("inventory", INVENTORY_TABLES)):
        parts = ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in tables)
        (row,) = await market.sql(room, f"SELECT {parts}")
        counts |= {f"{room}.{table}": row[table] for table in tables}
    return counts


async def flush(market: Market) -> None:
    """Empties Redis."""
    client = redis.Redis.from_url(market.settings.redis_url)
    await client.flushall()
    await client.aclose()


async def outcome(market: Market, method: Any, request: Any, who: Trader, key: str = "", **m: str) -> Any:
    """The answer, or the refusal."""
    try:
        return await market.call(method, request, who, key, **m)
    except grpc.aio.AioRpcError as error:
        return Refused.of(error)


async def another_door(market: Market, stack: AsyncExitStack, **settings: Any) -> InvoiceServiceStub:
    """A second process of the invoice service, as far as memory goes, on the same databases."""
    running = await invoice_service.start(market.settings.model_copy(update=settings))
    server = Server("invoice-2", running.authenticator)
    for servicer in running.servicers:
        server.add(servicer)
    port = await server.start("127.0.0.1:0")

    async def stop() -> None:
        await server.drain(2)
        await running.close()

    stack.push_async_callback(stop)
    return InvoiceServiceStub(await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}")))


def audit_key(market: Market) -> bytes:
    return secrets.load(market.settings.secrets_dir).audit_mac_key


async def room_postgres(market: Market, stack: AsyncExitStack, room: str = "invoice") -> Postgres:
    postgres = await Postgres.connect(market.databases[room], name=f"{room}-probe", size=2)
    stack.push_async_callback(postgres.close)
    return postgres


def inventory_port(market: Market, stack: AsyncExitStack, address: str = "") -> InventoryPort:
    """The inventory's door, as the invoice service."""
    identity = ServiceIdentity("invoice", secrets.load(market.settings.secrets_dir))
    port = InventoryPort(Channel(address or market.settings.inventory_address, identity, "the inventory"))
    stack.push_async_callback(port.close)
    return port


async def broken_audit(market: Market, invoice_id: str) -> str:
    """What is wrong with an invoice's audit chain; empty if it verifies."""
    async with AsyncExitStack() as stack:
        postgres = await room_postgres(market, stack)
        async with postgres.reading() as tx:
            trail = await read_audit(tx, bytes.fromhex(invoice_id.replace("-", "")), audit_key(market))
    assert trail is not None
    return trail.broken


async def hold_by_hand(
    market: Market, seller: Trader, request: pb.CreateInvoiceRequest, key: str, *, attempt: int = 1, print_: bytes = b""
) -> Hold:
    """The hold that CreateInvoice would have made, as if its process had died right after (PROTOCOL 6)."""
    fingerprint = print_ or fingerprint_of(request)
    rid = core.request_id(seller.merchant_id, "invoice.create", key)
    hold = Hold(seller.merchant_id, rid, attempt, fingerprint)
    ref = hold.ref()
    items = [
        stock_pb.ReservationItem(sku=line.sku, quantity_milli=line.quantity_milli, unit=line.unit)
        for line in request.invoice.lines
    ]
    one = stock_pb.ReserveStockRequest(
        items=items,
        reservation_id=ref.reservation_id,
        merchant_id=to_text(seller.merchant_id),
        resolver=stock_pb.INVOICE,
        rid=ref.rid,
        attempt=attempt,
        fingerprint=fingerprint,
    )
    async with AsyncExitStack() as stack:
        port = inventory_port(market, stack)
        raw = stock_pb.BatchReserveStockRequest(requests=[one]).SerializeToString()
        assert await port.reserve(raw, items=1, time_left_s=3, trace=None) == [None]
    return hold


def fingerprint_of(request: pb.CreateInvoiceRequest) -> bytes:
    """SHA-256 of the canonical request (PROTOCOL 2), by the contract's own encoder instead of the core's."""
    import hashlib

    return hashlib.sha256(request.invoice.SerializeToString(deterministic=True)).digest()


async def settle(market: Market, *, abort_after_ms: int = 30_000) -> Found:
    """One round of the resolver over all partitions."""
    async with AsyncExitStack() as stack:
        postgres = await room_postgres(market, stack)
        port = inventory_port(market, stack)
        return await resolve(postgres, port, partition=0, partitions=1, abort_after_ms=abort_after_ms)


async def age_holds(market: Market, seconds: int, who: Trader) -> None:
    """Makes a merchant's holds older by the inventory's clock, so that no test waits."""
    await market.sql(
        "inventory",
        """UPDATE reservation SET create_time = create_time - $1 * interval '1 second'
           WHERE merchant_id = $2::text::uuid""",
        seconds,
        who.merchant.merchant_id,
    )


async def hold_states(market: Market, who: Trader) -> dict[int, str]:
    """Attempt -> state of a merchant's holds (of one request)."""
    rows = await market.sql(
        "inventory",
        """SELECT attempt, state FROM reservation WHERE merchant_id = $1::text::uuid AND resolver = 'INVOICE'
           ORDER BY attempt""",
        who.merchant.merchant_id,
    )
    return {row["attempt"]: row["state"] for row in rows}


async def decision_of(market: Market, who: Trader, key: str, operation: str = "invoice.create") -> tuple[str, int, str]:
    """State, attempt and reason of a decision row; ("", 0, "") if there is none."""
    rid = core.request_id(who.merchant_id, operation, key)
    rows = await market.sql(
        "invoice", "SELECT state, attempt, reason FROM decision WHERE rid = $1::text::uuid", to_text(rid)
    )
    return (rows[0]["state"], rows[0]["attempt"], rows[0]["reason"] or "") if rows else ("", 0, "")


def codes(refusal: Refused) -> set[str]:
    return {code for _, code in refusal.broken}


def fields(refusal: Refused) -> Collection[str]:
    return {field for field, _ in refusal.broken}
