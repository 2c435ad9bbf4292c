"""The load of batches: requests encoded beforehand, a bounded number in flight, answers counted and not decoded."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from google.protobuf import json_format

from invochain import core
from invochain.api.inventory.v1 import inventory_service_pb2 as inventory
from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.chassis import ids, secrets
from invochain.chassis.tokens import ServiceIdentity
from invochain.supervisor.state import StackState

CREATE = "/invochain.api.invoice.v1.InvoiceService/BatchCreateInvoices"
RESERVE = "/invochain.api.inventory.v1.InventoryService/BatchReserveStock"
RELEASE = "/invochain.api.inventory.v1.InventoryService/ReleaseReservations"


class Door:
    """A channel that speaks raw bytes, as one caller."""

    def __init__(self, address: str, metadata: Sequence[tuple[str, str]]) -> None:
        self._address, self._metadata = address, tuple(metadata)

    async def __aenter__(self) -> Door:
        self._channel = grpc.aio.insecure_channel(self._address, options=[("grpc.max_receive_message_length", -1)])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def call(self, method: str, raw: bytes) -> bytes:
        answer: bytes = await self._channel.unary_unary(method)(raw, metadata=self._metadata, timeout=20)
        return answer


async def seconds_for(door: Door, method: str, requests: list[bytes], in_flight: int) -> tuple[float, list[bytes]]:
    """Sends the requests, so many at a time; the seconds it took, and the answers."""
    todo, answers = list(requests), []

    async def one_by_one() -> None:
        while todo:
            answers.append(await door.call(method, todo.pop()))

    started = time.monotonic()
    await asyncio.gather(*(one_by_one() for _ in range(in_flight)))
    return time.monotonic() - started, answers


def invoices(shop: Any, batches: int, size: int, lines: int) -> list[bytes]:
    """Encoded BatchCreateInvoicesRequests, spread over the shop's SKUs."""
    drafts = [json_format.ParseDict(shop.invoice(f"SKU-{sku}", lines), api.Invoice()) for sku in range(shop.SKUS)]
    return [
        api.BatchCreateInvoicesRequest(
            items=[
                api.BatchCreateInvoicesItem(
                    idempotency_key=str(uuid.uuid4()), invoice=drafts[(batch * size + item) % shop.SKUS]
                )
                for item in range(size)
            ]
        ).SerializeToString()
        for batch in range(batches)
    ]


def issued(answers: list[bytes]) -> list[str]:
    """The ids of issued invoices; SystemExit if any was refused."""
    found = []
    for answer in answers:
        for result in api.BatchCreateInvoicesResponse.FromString(answer).results:
            if not result.HasField("invoice"):
                raise SystemExit(f"an invoice of a batch was refused: {result.error}")
            found.append(result.invoice.invoice_id)
    return found


class Holds:
    """Holds on one SKU, as the invoice service asks for them; and the same rows written by hand."""

    def __init__(self, state: StackState, merchant_id: str, sku: str) -> None:
        keys = secrets.load(Path(state.environment["INVOCHAIN_SECRETS_DIR"]))
        self._address, self._identity = state.addresses["inventory"], ServiceIdentity("invoice", keys)
        self._dsn = state.environment["INVOCHAIN_INVENTORY_DATABASE_URL"]
        self._merchant_id, self._sku = merchant_id, sku

    def _requests(self, count: int) -> list[inventory.ReserveStockRequest]:
        rids = [uuid.uuid4().bytes for _ in range(count)]
        return [
            inventory.ReserveStockRequest(
                items=[inventory.ReservationItem(sku=self._sku, quantity_milli=1_000, unit="NOS")],
                reservation_id=ids.to_text(core.reservation_id(rid, 1)),
                merchant_id=self._merchant_id,
                resolver=inventory.INVOICE,
                rid=ids.to_text(rid),
                attempt=1,
                fingerprint=bytes(32),
            )
            for rid in rids
        ]

    async def by_service(self, batches: int, size: int) -> float:
        """Reservations a second, batch after batch; they are given back afterwards."""
        asked = [self._requests(size) for _ in range(batches)]
        raws = [inventory.BatchReserveStockRequest(requests=part).SerializeToString() for part in asked]
        # A service's token lives a few minutes: a fresh one each time.
        async with Door(self._address, self._identity.metadata()) as door:
            seconds, answers = await seconds_for(door, RESERVE, raws, 1)
            await self._give_back(door, asked)
        for answer in answers:
            if any(r.HasField("error") for r in inventory.BatchReserveStockResponse.FromString(answer).results):
                raise SystemExit("a reservation was refused")
        return batches * size / seconds

    async def _give_back(self, door: Door, asked: list[list[inventory.ReserveStockRequest]]) -> None:
        for part in asked:
            refs = [
                inventory.ReservationRef(
                    reservation_id=one.reservation_id,
                    merchant_id=one.merchant_id,
                    fingerprint=one.fingerprint,
                    resolver=one.resolver,
                    rid=one.rid,
                    attempt=1,
                )
                for one in part
            ]
            await door.call(RELEASE, inventory.ReleaseReservationsRequest(reservations=refs).SerializeToString())

    async def by_hand(self, batches: int, size: int) -> float:
        """The same rows by two statements in one transaction, from columns made beforehand; then taken out again."""
        connection = await asyncpg.connect(self._dsn)
        parts = [[uuid.uuid4() for _ in range(size)] for _ in range(batches)]
        columns = [
            (part, [uuid.UUID(bytes=core.reservation_id(rid.bytes, 1)) for rid in part], [bytes(32)] * size)
            for part in parts
        ]
        insert = await connection.prepare(
            """INSERT INTO reservation
                 (merchant_id, reservation_id, resolver, state, rid, attempt, fingerprint, skus, quantities_milli)
               SELECT $1, id, 'INVOICE', 'PENDING', rid, 1, print, ARRAY[$2::text], ARRAY[1000]
               FROM unnest($3::uuid[], $4::uuid[], $5::bytea[]) AS new (rid, id, print)"""
        )
        update = await connection.prepare(
            "UPDATE stock SET reserved_milli = reserved_milli + $3 WHERE merchant_id = $1 AND sku = $2"
        )
        started = time.monotonic()
        for rids, reservation_ids, prints in columns:
            async with connection.transaction():
                await update.fetch(self._merchant_id, self._sku, 1_000 * size)
                await insert.fetch(self._merchant_id, self._sku, rids, reservation_ids, prints)
        seconds = time.monotonic() - started
        async with connection.transaction():
            for part in parts:
                await connection.execute(
                    "DELETE FROM reservation WHERE merchant_id = $1 AND rid = ANY($2)", self._merchant_id, part
                )
            await update.fetch(self._merchant_id, self._sku, -1_000 * size * batches)
        await connection.close()
        return batches * size / seconds
