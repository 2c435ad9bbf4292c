"""Ends holds that nobody settles: resolver NONE only, at their time to live, by the database's clock (PROTOCOL 5)."""

from __future__ import annotations

from invochain.chassis.postgres import Postgres, Sql
from invochain.inventory.settle_reservation import EXPIRE, Ref, settle

# Holds a round: one transaction of some ten milliseconds.
ROWS_MAX = 500


async def expire_due(postgres: Postgres, rows_max: int = ROWS_MAX) -> int:
    """Expires what is due, oldest first; returns how many were looked at. What was confirmed meanwhile stays so."""
    async with postgres.reading() as tx:
        rows = await tx.fetch(DUE, rows_max)
    if rows:
        await settle(postgres, EXPIRE, [Ref(row["merchant_id"], row["reservation_id"]) for row in rows])
    return len(rows)


DUE = Sql(
    "reservation_due",
    """
SELECT merchant_id, reservation_id
FROM reservation
WHERE state = 'PENDING' AND resolver = 'NONE' AND expire_time <= now()
ORDER BY expire_time
LIMIT $1
""",
)
