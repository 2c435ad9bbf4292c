"""The rows of `stock`: the one place where they are locked, in the one order (PROTOCOL 4.2 and 9).

Every change of them goes through here, so that no two transactions ever take them in different orders.
"""

from __future__ import annotations

from dataclasses import dataclass

from invochain.chassis import clock
from invochain.chassis.ids import Id
from invochain.chassis.postgres import Sql, Tx, column
from invochain.chassis.telemetry import LOCK_WAIT_SECONDS
from invochain.errors import InvariantBroken


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


async def absent(tx: Tx, merchant_ids: list[Id], skus: list[str]) -> list[int]:
    """Which of the keys have no row at all, whoever may hold it: the places of the missing ones."""
    there = {row["place"] - 1 for row in await tx.fetch(EXISTING, merchant_ids, skus)}
    return [place for place in range(len(skus)) if place not in there]


async def reserve(tx: Tx, merchant_ids: list[Id], skus: list[str], quantities_milli: list[int]) -> None:
    """Adds to what is reserved, of rows that are locked."""
    await _each(len(skus), await tx.count(RESERVE, merchant_ids, skus, quantities_milli))


async def _each(wanted: int, changed: int) -> None:
    if changed != wanted:
        raise InvariantBroken(f"{wanted} locked stock rows were to be changed, {changed} were")


_LOCK = """
SELECT wanted.place, stock.unit, stock.on_hand_milli - stock.reserved_milli AS free_milli
FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS wanted (merchant_id, sku, place)
JOIN stock ON stock.merchant_id = wanted.merchant_id AND stock.sku = wanted.sku
ORDER BY stock.merchant_id, stock.sku COLLATE "C"
FOR NO KEY UPDATE OF stock
"""

LOCK_FREE = Sql("stock_lock_free", f"{_LOCK} SKIP LOCKED")

LOCK_WAITING = Sql("stock_lock_waiting", _LOCK)

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
