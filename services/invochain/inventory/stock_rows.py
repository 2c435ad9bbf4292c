"""The rows of `stock`: the one place where they are locked, in the one order (PROTOCOL 4.2 and 9).

Every change of them goes through here, so that no two transactions ever take them in different orders.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from invochain.chassis import clock
from invochain.chassis.ids import Id
from invochain.chassis.postgres import Sql, Tx, column
from invochain.chassis.telemetry import LOCK_WAIT_SECONDS
from invochain.errors import InvariantBroken

WHOLE_ROW = "merchant_id, sku, description, hsn, unit, on_hand_milli, reserved_milli, version, create_time, update_time"


@dataclass(slots=True)
class Locked:
    """Locked rows as columns. `places` are those of the keys that were asked for."""

    places: list[int]
    units: list[str]
    free_milli: list[int]


async def lock(tx: Tx, merchant_ids: list[Id], skus: list[str], *, wait: bool) -> Locked:
    """Locks the rows that exist, in the order of the keys given, which must be that of (merchant_id, sku) in bytes.

    Without `wait`, rows that another transaction holds are left out; they look like ones that do not exist.
    """
    started = clock.monotonic()
    rows = await tx.fetch(LOCK_WAITING if wait else LOCK_FREE, merchant_ids, skus)
    LOCK_WAIT_SECONDS.observe(clock.monotonic() - started)
    return Locked([row["place"] - 1 for row in rows], column(rows, "unit"), column(rows, "free_milli"))


async def lock_of_holds(tx: Tx, merchant_ids: list[Id], reservation_ids: list[Id], resolver: str) -> None:
    """Locks the rows that some holds are made of, waiting for them."""
    await tx.fetch(LOCK_OF_HOLDS, merchant_ids, reservation_ids, resolver)


async def lock_kinds(tx: Tx, merchant_ids: list[Id], skus: list[str]) -> list[asyncpg.Record]:
    """Locks the rows that exist, waiting for them, and tells how each is kept: merchant_id, sku, unit, hsn."""
    return await tx.fetch(LOCK_KINDS, merchant_ids, skus)


async def lock_one(tx: Tx, merchant_id: Id, sku: str) -> asyncpg.Record | None:
    """Locks one row, waiting for it, and returns it whole; None if there is none."""
    return await tx.fetchrow(LOCK_ONE, merchant_id, sku)


async def absent(tx: Tx, merchant_ids: list[Id], skus: list[str]) -> list[int]:
    """Which of the keys have no row at all, whoever may hold it: the places of the missing ones."""
    there = {row["place"] - 1 for row in await tx.fetch(EXISTING, merchant_ids, skus)}
    return [place for place in range(len(skus)) if place not in there]


async def reserve(tx: Tx, merchant_ids: list[Id], skus: list[str], quantities_milli: list[int]) -> None:
    """Adds to what is reserved, of rows that are locked."""
    if (changed := await tx.count(RESERVE, merchant_ids, skus, quantities_milli)) != len(skus):
        raise InvariantBroken(f"{len(skus)} locked stock rows were to be changed, {changed} were")


_LOCK = """
SELECT wanted.place, stock.unit, stock.on_hand_milli - stock.reserved_milli AS free_milli
FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS wanted (merchant_id, sku, place)
JOIN stock ON stock.merchant_id = wanted.merchant_id AND stock.sku = wanted.sku
ORDER BY stock.merchant_id, stock.sku COLLATE "C"
FOR NO KEY UPDATE OF stock
"""

LOCK_FREE = Sql("stock_lock_free", f"{_LOCK} SKIP LOCKED")

LOCK_WAITING = Sql("stock_lock_waiting", _LOCK)

# Holds by merchant and id ($1, $2), all of one resolver ($3). The resolver is a column of what is asked, not a
# constant: of a constant the planner thinks that almost no row has it, and reads the whole table to find them (seen:
# 136 ms for 110 of 6,000 holds; 1 ms like this).
ASKED = "unnest($1::uuid[], $2::uuid[], array_fill($3::text, ARRAY[cardinality($2::uuid[])]))"

# What the holds are made of never changes, so it is read unlocked; only the rows of stock are locked here.
LOCK_OF_HOLDS = Sql(
    "stock_lock_of_reservations",
    f"""
SELECT 1
FROM (
    SELECT DISTINCT reservation.merchant_id, item.sku
    FROM {ASKED} AS asked (merchant_id, reservation_id, resolver)
    JOIN reservation USING (merchant_id, reservation_id, resolver)
    CROSS JOIN LATERAL unnest(reservation.skus) AS item (sku)
) AS wanted
JOIN stock ON stock.merchant_id = wanted.merchant_id AND stock.sku = wanted.sku
ORDER BY stock.merchant_id, stock.sku COLLATE "C"
FOR NO KEY UPDATE OF stock
""",
)

LOCK_KINDS = Sql(
    "stock_lock_kinds",
    """
SELECT stock.merchant_id, stock.sku, stock.unit, stock.hsn
FROM unnest($1::uuid[], $2::text[]) AS wanted (merchant_id, sku)
JOIN stock ON stock.merchant_id = wanted.merchant_id AND stock.sku = wanted.sku
ORDER BY stock.merchant_id, stock.sku COLLATE "C"
FOR NO KEY UPDATE OF stock
""",
)

LOCK_ONE = Sql(
    "stock_lock_one",
    f"SELECT {WHOLE_ROW} FROM stock WHERE merchant_id = $1 AND sku = $2 FOR NO KEY UPDATE",
)

EXISTING = Sql(
    "stock_existing",
    """
SELECT wanted.place
FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS wanted (merchant_id, sku, place)
JOIN stock ON stock.merchant_id = wanted.merchant_id AND stock.sku = wanted.sku
""",
)

RESERVE = Sql(
    "stock_reserve",
    """
UPDATE stock SET reserved_milli = stock.reserved_milli + taken.quantity_milli
FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS taken (merchant_id, sku, quantity_milli)
WHERE stock.merchant_id = taken.merchant_id AND stock.sku = taken.sku
""",
)
