"""Reads: one SKU, the list of them, the movements, one reservation. A merchant sees its own and nothing else.

Lists are keyset pages (API section 5): SKUs in their order, movements newest first.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from invochain.api.inventory.v1 import inventory_service_pb2 as pb
from invochain.chassis.ids import Id, from_text, to_text
from invochain.chassis.pages import Pages, page_size
from invochain.chassis.postgres import Postgres, Sql
from invochain.inventory.reservation import NONE, ReservationNotFound, SkuNotFound, wanted_sku
from invochain.inventory.stock_rows import WHOLE_ROW


async def get_stock(postgres: Postgres, merchant_id: Id, request: pb.GetStockRequest) -> pb.Stock:
    """Refuses: SkuNotFound."""
    sku = wanted_sku(request.sku)
    async with postgres.reading() as tx:
        row = await tx.fetchrow(GET, merchant_id, sku)
    if row is None:
        raise SkuNotFound(sku)
    return stock_message(row)


async def list_stock(
    postgres: Postgres, pages: Pages, merchant_id: Id, request: pb.ListStockRequest
) -> pb.ListStockResponse:
    size = page_size(request.page_size)
    scope = ("ListStock", merchant_id)
    cursor = pages.cursor(scope, request.page_token)
    async with postgres.reading() as tx:
        rows = await tx.fetch(LIST, merchant_id, cursor[0] if cursor else "", size + 1)
    response = pb.ListStockResponse(stock=[stock_message(row) for row in rows[:size]])
    if len(rows) > size:
        response.next_page_token = pages.token(scope, [rows[size - 1]["sku"]])
    return response


async def list_movements(
    postgres: Postgres, pages: Pages, merchant_id: Id, request: pb.ListMovementsRequest
) -> pb.ListMovementsResponse:
    size = page_size(request.page_size)
    sku = wanted_sku(request.sku) if request.sku else ""
    scope = ("ListMovements", merchant_id, sku)
    cursor = pages.cursor(scope, request.page_token)
    # Newest first: a first page begins after the end of time.
    before, last_id = (
        (dt.datetime.fromisoformat(str(cursor[0])), from_text(str(cursor[1]), "page_token")) if cursor else (None, None)
    )
    async with postgres.reading() as tx:
        if sku:
            rows = await tx.fetch(MOVEMENTS_OF_SKU, merchant_id, before, last_id, size + 1, sku)
        else:
            rows = await tx.fetch(MOVEMENTS, merchant_id, before, last_id, size + 1)
    response = pb.ListMovementsResponse(movements=[_movement(row) for row in rows[:size]])
    if len(rows) > size:
        last = rows[size - 1]
        response.next_page_token = pages.token(scope, [last["create_time"].isoformat(), to_text(last["movement_id"])])
    return response


async def get_reservation(postgres: Postgres, merchant_id: Id, reservation_id: Id) -> pb.Reservation:
    """One reservation that the merchant made itself (resolver NONE). Refuses: ReservationNotFound."""
    async with postgres.reading() as tx:
        row = await tx.fetchrow(RESERVATION, merchant_id, reservation_id)
    if row is None:
        raise ReservationNotFound(to_text(reservation_id))
    reservation = pb.Reservation(
        reservation_id=to_text(reservation_id),
        state=row["state"],
        items=[
            pb.ReservationItem(sku=sku, quantity_milli=quantity_milli, unit=unit)
            for sku, quantity_milli, unit in zip(row["skus"], row["quantities_milli"], row["units"], strict=True)
        ],
        resolver=NONE,
    )
    reservation.create_time.FromDatetime(row["create_time"])
    if row["expire_time"] is not None:
        reservation.expire_time.FromDatetime(row["expire_time"])
    return reservation


def etag_of(version: int) -> str:
    """Opaque to clients."""
    return f"{version:x}"


def stock_message(row: Any) -> pb.Stock:
    """A row of WHOLE_ROW as the contract has it."""
    stock = pb.Stock(
        sku=row["sku"],
        description=row["description"],
        hsn=row["hsn"],
        unit=row["unit"],
        on_hand_milli=row["on_hand_milli"],
        reserved_milli=row["reserved_milli"],
        free_milli=max(0, row["on_hand_milli"] - row["reserved_milli"]),
        etag=etag_of(row["version"]),
    )
    stock.create_time.FromDatetime(row["create_time"])
    stock.update_time.FromDatetime(row["update_time"])
    return stock


def _movement(row: Any) -> pb.Movement:
    movement = pb.Movement(
        movement_id=to_text(row["movement_id"]),
        sku=row["sku"],
        kind=row["kind"],
        delta_milli=row["delta_milli"],
        invoice_id=to_text(row["invoice_id"]) if row["invoice_id"] else "",
        reservation_id=to_text(row["reservation_id"]) if row["reservation_id"] else "",
        reason=row["reason"],
    )
    movement.create_time.FromDatetime(row["create_time"])
    return movement


GET = Sql("stock_get", f"SELECT {WHOLE_ROW} FROM stock WHERE merchant_id = $1 AND sku = $2")

LIST = Sql(
    "stock_list",
    f"SELECT {WHOLE_ROW} FROM stock WHERE merchant_id = $1 AND sku > $2 ORDER BY sku LIMIT $3",
)

_MOVEMENTS = """
SELECT movement_id, sku, kind, delta_milli, invoice_id, reservation_id, reason, create_time
FROM movement
WHERE merchant_id = $1
    AND (create_time, movement_id) < (coalesce($2, 'infinity'::timestamptz), coalesce($3, '{last}'::uuid)) {filter}
ORDER BY create_time DESC, movement_id DESC
LIMIT $4
"""
_LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"

MOVEMENTS = Sql("movement_list", _MOVEMENTS.format(last=_LAST, filter=""))

MOVEMENTS_OF_SKU = Sql("movement_list_of_sku", _MOVEMENTS.format(last=_LAST, filter="AND sku = $5"))

RESERVATION = Sql(
    "reservation_get",
    """
SELECT
    state, skus, quantities_milli, create_time, expire_time,
    ARRAY(
        SELECT coalesce(stock.unit, '')
        FROM unnest(reservation.skus) WITH ORDINALITY AS item (sku, place)
        LEFT JOIN stock ON stock.merchant_id = reservation.merchant_id AND stock.sku = item.sku
        ORDER BY item.place
    ) AS units
FROM reservation
WHERE merchant_id = $1 AND reservation_id = $2 AND resolver = 'NONE'
""",
)
