"""The inventory room on a real PostgreSQL: a database per test, copied from a migrated template, served over gRPC.

After every test the invariants of PROTOCOL 15 that concern one snapshot of this room are checked by SQL.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import grpc
import pytest

from invochain import core
from invochain.api.inventory.v1 import inventory_service_pb2 as pb
from invochain.api.inventory.v1.inventory_service_pb2_grpc import InventoryServiceStub
from invochain.chassis import migrate
from invochain.chassis.call import Principal
from invochain.chassis.ids import new_id, to_text
from invochain.chassis.pages import Pages
from invochain.chassis.postgres import Postgres
from invochain.chassis.server import Server
from invochain.chassis.settings import Settings
from invochain.errors import TokenInvalid, reason_of
from invochain.inventory.reserve_stock import Reserving
from invochain.inventory.servicer import InventoryServicer
from invochain.inventory.settling import Settling
from tests.kit.servers import PostgresServer

SELLER, OTHER = bytes([1]) * 16, bytes([2]) * 16
FINGERPRINT = b"f" * 32
NUMBERS = itertools.count()


class Tokens:
    """Takes `<name>` for a merchant's owner, `<name>:<ROLE>` for a user, and a service's name for its token."""

    merchants = {"seller": SELLER, "other": OTHER}  # noqa: RUF012

    def known(self, bearer: str) -> Principal | None:
        return None

    async def user(self, bearer: str) -> Principal:
        name, _, role = bearer.removeprefix("Bearer ").partition(":")
        if name not in self.merchants:
            raise TokenInvalid()
        return Principal(self.merchants[name], "27AAPFU0939F1ZV", new_id(), frozenset({role or "OWNER"}))

    async def service(self, token: str) -> Principal:
        return Principal(service=token)


@dataclass
class Shop:
    """A served room and how tests speak to it."""

    postgres: Postgres
    channel: grpc.aio.Channel
    stub: InventoryServiceStub
    dsn: str
    reserving: Reserving
    settling: Settling

    def merchant(self, name: str = "seller", key: str = "") -> dict[str, Any]:
        metadata = [("authorization", f"Bearer {name}")]
        if key:
            metadata.append(("idempotency-key", key))
        return {"metadata": metadata, "timeout": 10}

    def service(self, name: str = "invoice") -> dict[str, Any]:
        return {"metadata": [("x-invochain-service-token", name)], "timeout": 10}

    async def add(self, sku: str, quantity_milli: int, name: str = "seller", **more: Any) -> pb.Stock:
        request = pb.AdjustStockRequest(sku=sku, adjustment="ADD", quantity_milli=quantity_milli, **more)
        return await self.stub.AdjustStock(request, **self.merchant(name, fresh_key()))

    async def stock(self, sku: str, name: str = "seller") -> tuple[int, int]:
        """on hand, reserved"""
        stock = await self.stub.GetStock(pb.GetStockRequest(sku=sku), **self.merchant(name))
        assert stock.free_milli == stock.on_hand_milli - stock.reserved_milli
        return stock.on_hand_milli, stock.reserved_milli

    async def reserve(self, *requests: pb.ReserveStockRequest) -> list[pb.ReserveStockResult]:
        response = await self.stub.BatchReserveStock(pb.BatchReserveStockRequest(requests=requests), **self.service())
        return list(response.results)

    async def reserve_surely(self, *requests: pb.ReserveStockRequest) -> list[pb.ReserveStockResult]:
        """As a client does: what is told that its outcome is unknown (a machine under load lets a lock wait for over
        a second) is asked again, with the same ids, until it is known."""
        results = {request.reservation_id: None for request in requests}
        while unknown := [request for request in requests if results[request.reservation_id] is None]:
            for result in await self.reserve(*unknown):
                if not result.HasField("error") or reason_of(result.error) != "DEPENDENCY_DOWN":
                    results[result.reservation_id] = result
        return [results[request.reservation_id] for request in requests]

    async def hold(self, **skus: int) -> pb.ReserveStockRequest:
        """A PENDING hold for an invoice."""
        request = wanted(skus)
        (result,) = await self.reserve(request)
        assert result.state == pb.PENDING, result
        return request

    async def confirm(self, *requests: pb.ReserveStockRequest) -> list[pb.SettleResult]:
        refs = [ref(request) for request in requests]
        response = await self.stub.ConfirmReservations(
            pb.ConfirmReservationsRequest(reservations=refs), **self.service()
        )
        return list(response.results)

    async def release(self, *requests: pb.ReserveStockRequest) -> list[pb.SettleResult]:
        refs = [ref(request) for request in requests]
        response = await self.stub.ReleaseReservations(
            pb.ReleaseReservationsRequest(reservations=refs), **self.service()
        )
        return list(response.results)

    async def state(self, request: pb.ReserveStockRequest) -> str | None:
        async with self.connection() as connection:
            return await connection.fetchval(
                "SELECT state FROM reservation WHERE reservation_id = $1::text::uuid", request.reservation_id
            )

    async def sql(self, text: str, *args: Any) -> list[asyncpg.Record]:
        async with self.connection() as connection:
            return await connection.fetch(text, *args)

    def connection(self) -> Any:
        return _connection(self.dsn)


class _connection:
    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def __aenter__(self) -> asyncpg.Connection:
        self._connection = await asyncpg.connect(self._dsn)
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()


def fresh_key() -> str:
    return f"test-key-{next(NUMBERS):020}"


def wanted(
    skus: dict[str, int], *, merchant: bytes = SELLER, fingerprint: bytes = FINGERPRINT, unit: str = ""
) -> pb.ReserveStockRequest:
    """What the invoice service asks for: a fresh attempt at some units."""
    rid = core.request_id(merchant, "invoice.create", fresh_key())
    return pb.ReserveStockRequest(
        items=[pb.ReservationItem(sku=sku, quantity_milli=quantity, unit=unit) for sku, quantity in skus.items()],
        reservation_id=to_text(core.reservation_id(rid, 1)),
        merchant_id=to_text(merchant),
        resolver="INVOICE",
        rid=to_text(rid),
        attempt=1,
        fingerprint=fingerprint,
    )


def ref(request: pb.ReserveStockRequest, fingerprint: bytes = b"") -> pb.ReservationRef:
    return pb.ReservationRef(
        reservation_id=request.reservation_id,
        merchant_id=request.merchant_id,
        fingerprint=fingerprint or request.fingerprint,
        resolver="INVOICE",
        rid=request.rid,
        attempt=request.attempt,
    )


INVARIANTS = {
    "I1 on_hand is the sum of the movements": """
        SELECT s.merchant_id, s.sku, s.on_hand_milli, m.sum FROM stock s FULL JOIN (
            SELECT merchant_id, sku, sum(delta_milli) FROM movement GROUP BY 1, 2
        ) m ON m.merchant_id = s.merchant_id AND m.sku = s.sku
        WHERE coalesce(s.on_hand_milli, 0) <> coalesce(m.sum, 0)
    """,
    "I2 reserved is the sum of PENDING and HELD": """
        SELECT s.merchant_id, s.sku, s.reserved_milli, r.sum FROM stock s FULL JOIN (
            SELECT merchant_id, i.sku, sum(i.quantity)
            FROM reservation, unnest(skus, quantities_milli) i (sku, quantity)
            WHERE state IN ('PENDING', 'HELD') GROUP BY 1, 2
        ) r ON r.merchant_id = s.merchant_id AND r.sku = s.sku
        WHERE coalesce(s.reserved_milli, 0) <> coalesce(r.sum, 0)
    """,
    "I3 0 <= reserved <= on_hand": """
        SELECT * FROM stock WHERE reserved_milli < 0 OR reserved_milli > on_hand_milli + deficit_milli
    """,
    "I4 one living reservation a request": """
        SELECT merchant_id, rid FROM reservation
        WHERE resolver = 'INVOICE' AND state IN ('HELD', 'COMMITTED', 'REVERSED') GROUP BY 1, 2 HAVING count(*) > 1
    """,
}


async def check_invariants(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for name, sql in INVARIANTS.items():
            broken = await connection.fetch(sql)
            assert not broken, f"{name}: {broken}"
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def inventory_postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
async def template(inventory_postgres: PostgresServer) -> str:
    """A migrated database to copy."""
    await migrate.migrate(await inventory_postgres.make_database("inventory"), "inventory")
    return "inventory"


@pytest.fixture
async def dsn(inventory_postgres: PostgresServer, template: str) -> AsyncIterator[str]:
    """A database of this test's own; the invariants hold when the test is over."""
    name = f"inventory_{next(NUMBERS)}"
    superuser = await asyncpg.connect(inventory_postgres.dsn())
    try:
        await superuser.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER inventory")
        dsn = inventory_postgres.dsn("inventory", name)
        yield dsn
        await check_invariants(dsn)
    finally:
        await superuser.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await superuser.close()


@pytest.fixture
async def shop(dsn: str) -> AsyncIterator[Shop]:
    settings = Settings(inventory_database_url=dsn)
    postgres = await Postgres.connect(dsn, name="inventory", size=settings.pool_size)
    await postgres.fill()
    reserving, settling = Reserving(postgres, settings), Settling(postgres, settings)
    server = Server("inventory", Tokens())
    server.add(InventoryServicer(postgres, Pages(b"p" * 32), reserving, settling))
    port = await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Shop(postgres, channel, InventoryServiceStub(channel), dsn, reserving, settling)
    await server.drain(1)
    await reserving.drain()
    await settling.drain()
    await postgres.close()
