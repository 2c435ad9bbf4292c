"""What must hold inside the inventory's database: I1 to I4, I7, and its part of I18 and I20."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from invochain import core
from invochain.chassis.ids import to_text
from invochain.check.rule import Compare, Row, Scan, by_key, sql
from invochain.check.snapshot import Databases

STOCK = {"merchant_id": "uuid", "sku": "text"}
MOVEMENT = {"merchant_id": "uuid", "movement_id": "uuid"}
RESERVATION = {"merchant_id": "uuid", "reservation_id": "uuid", "resolver": "text"}
LASTING = ("HELD", "COMMITTED", "REVERSED")

ON_HAND = sql(
    "inventory",
    "stock",
    STOCK,
    """CASE WHEN subject.on_hand_milli <> moved.total
        THEN format('%s of %s: %s on hand, movements give %s',
            subject.sku, subject.merchant_id, subject.on_hand_milli, moved.total) END""",
    joins="""CROSS JOIN LATERAL (
        SELECT coalesce(sum(movement.delta_milli), 0) AS total FROM movement
        WHERE movement.merchant_id = subject.merchant_id AND movement.sku = subject.sku
    ) AS moved""",
)

MOVED_SOMETHING = sql(
    "inventory",
    "movement",
    MOVEMENT,
    """CASE WHEN NOT EXISTS (
            SELECT FROM stock WHERE stock.merchant_id = subject.merchant_id AND stock.sku = subject.sku
        ) THEN format('movement %s of %s: there is no stock row %s',
            subject.movement_id, subject.merchant_id, subject.sku) END""",
)

# All holds of a page's merchants are added up once a page: holds have no index by SKU.
RESERVED = sql(
    "inventory",
    "stock",
    STOCK,
    """CASE WHEN subject.reserved_milli <> coalesce(held.quantity_milli, 0)
        THEN format('%s of %s: %s reserved, holds take %s',
            subject.sku, subject.merchant_id, subject.reserved_milli, coalesce(held.quantity_milli, 0)) END""",
    also=""",
held AS (
    SELECT reservation.merchant_id, item.sku COLLATE "C" AS sku, sum(item.quantity_milli) AS quantity_milli
    FROM (SELECT DISTINCT merchant_id FROM subject) AS owner
    JOIN reservation ON reservation.merchant_id = owner.merchant_id AND reservation.state IN ('PENDING', 'HELD')
    CROSS JOIN LATERAL unnest(reservation.skus, reservation.quantities_milli) AS item (sku, quantity_milli)
    GROUP BY 1, 2
)""",
    joins="LEFT JOIN held ON held.merchant_id = subject.merchant_id AND held.sku = subject.sku",
)

HOLDS_SOMETHING = sql(
    "inventory",
    "reservation",
    RESERVATION,
    """CASE WHEN subject.state IN ('PENDING', 'HELD') AND EXISTS (
            SELECT FROM unnest(subject.skus) AS item (sku) WHERE NOT EXISTS (
                SELECT FROM stock WHERE stock.merchant_id = subject.merchant_id AND stock.sku = item.sku
            )
        ) THEN format('hold %s of %s: a SKU of it has no stock row',
            subject.reservation_id, subject.merchant_id) END""",
)

EACH_UNIT_ONCE = sql(
    "inventory",
    "stock",
    STOCK,
    """CASE WHEN NOT (0 <= subject.reserved_milli AND 0 <= subject.on_hand_milli AND 0 <= subject.deficit_milli
            AND subject.reserved_milli <= subject.on_hand_milli + subject.deficit_milli)
        THEN format('%s of %s: %s on hand, %s reserved, %s owed',
            subject.sku, subject.merchant_id, subject.on_hand_milli, subject.reserved_milli, subject.deficit_milli)
        END""",
)

OLD_PENDING = sql(
    "inventory",
    "reservation",
    {"create_time": "timestamptz", "reservation_id": "uuid"},
    """CASE WHEN subject.create_time <= (SELECT before FROM due)
        THEN format('hold %s of %s: PENDING for %s s', subject.reservation_id, subject.merchant_id,
            extract(epoch FROM now() - subject.create_time)::bigint) END""",
    index_where="resolver = 'INVOICE' AND state = 'PENDING'",
)

SOLD_FROM_OWN_HOLD = sql(
    "inventory",
    "movement",
    MOVEMENT,
    """CASE WHEN subject.kind IN ('SALE', 'ISSUE') AND NOT EXISTS (
            SELECT FROM reservation
            WHERE reservation.merchant_id = subject.merchant_id
                AND reservation.reservation_id = subject.reservation_id AND reservation.state = 'COMMITTED'
        ) THEN format('movement %s of %s: no hold of that merchant was sold',
            subject.movement_id, subject.merchant_id) END""",
)

STOCK_BOUNDS = sql(
    "inventory",
    "stock",
    STOCK,
    """CASE WHEN subject.on_hand_milli > 100000000000000000 OR subject.reserved_milli > 100000000000000000
        THEN format('%s of %s: %s on hand, %s reserved',
            subject.sku, subject.merchant_id, subject.on_hand_milli, subject.reserved_milli) END""",
)

HOLD_BY_KEY = by_key("reservation", "hold", "merchant_id", "reservation_id", where="reservation.resolver = 'INVOICE'")

SIBLINGS = f"""
SELECT asked.place, hold.state
FROM unnest($1::int[], $2::uuid[], $3::uuid[]) AS asked (place, merchant_id, reservation_id)
{HOLD_BY_KEY}
WHERE hold.state IN ('HELD', 'COMMITTED', 'REVERSED')
"""


async def _one_lasting(_: Databases, connection: asyncpg.Connection, rows: Sequence[Row], __: float) -> list[str]:
    """Ids derive from (rid, attempt), so the earlier attempts of a hold are looked up by key; later ones find it."""
    faults, places, merchants, earlier = [], [], [], []
    for place, row in enumerate(rows):
        if row["reservation_id"] != core.reservation_id(row["rid"], row["attempt"]):
            faults.append(f"hold {to_text(row['reservation_id'])}: its id is not that of its request and attempt")
        for attempt in range(1, row["attempt"]):
            places.append(place)
            merchants.append(row["merchant_id"])
            earlier.append(core.reservation_id(row["rid"], attempt))
    for found in await connection.fetch(SIBLINGS, places, merchants, earlier) if places else ():
        row = rows[found["place"]]
        faults.append(
            f"request {to_text(row['rid'])}: attempt {row['attempt']} is {row['state']}, another is {found['state']}"
        )
    return faults


ONE_LASTING = Compare(
    Scan(
        "inventory",
        "reservation",
        RESERVATION,
        columns="merchant_id, reservation_id, resolver, rid, attempt, state",
        where="resolver = 'INVOICE' AND state IN ('HELD', 'COMMITTED', 'REVERSED')",
    ),
    _one_lasting,
    {"inventory": (SIBLINGS,)},
)


SOLD = f"""
SELECT asked.place, item.quantity_milli
FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::text[]) AS asked (place, merchant_id, reservation_id, sku)
{HOLD_BY_KEY}
CROSS JOIN LATERAL unnest(hold.skus, hold.quantities_milli) AS item (sku, quantity_milli)
WHERE hold.state = 'COMMITTED' AND item.sku = asked.sku COLLATE "C"
"""


async def _sold_once(_: Databases, connection: asyncpg.Connection, rows: Sequence[Row], __: float) -> list[str]:
    """A sale is what its hold held, under the one id that the hold and the SKU give: a second one has another id."""
    found = await connection.fetch(
        SOLD,
        list(range(len(rows))),
        *([row[name] for row in rows] for name in ("merchant_id", "reservation_id", "sku")),
    )
    held = {row["place"]: row["quantity_milli"] for row in found}
    return [
        f"movement {to_text(row['movement_id'])}: it is not what a hold of that merchant sold"
        for place, row in enumerate(rows)
        if held.get(place) != -row["delta_milli"]
        or row["movement_id"] != core.movement_id(row["reservation_id"], row["sku"], "SALE")
    ]


SOLD_ONCE = Compare(
    Scan(
        "inventory",
        "movement",
        MOVEMENT,
        columns="merchant_id, movement_id, reservation_id, sku, delta_milli",
        where="kind = 'SALE'",
    ),
    _sold_once,
    {"inventory": (SOLD,)},
)
