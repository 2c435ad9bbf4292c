"""Which reservations are deleted, and when: what was released or expired, 8 days later (PROTOCOL 4.2).

A tombstone must outlive every delayed copy of the request that it fences. Other reservations live as long as their
invoice; movements stay.
"""

from __future__ import annotations

from invochain.chassis.postgres import Sql, Tx

AGE_S = 8 * 86_400


async def purge(tx: Tx, rows_max: int) -> int:
    """Deletes a bounded piece; returns how many rows went."""
    return await tx.count(PURGE, AGE_S, rows_max)


PURGE = Sql(
    "purge_reservations",
    """
DELETE FROM reservation
USING (
    SELECT merchant_id, reservation_id, resolver FROM reservation
    WHERE state IN ('RELEASED', 'EXPIRED') AND update_time < now() - make_interval(secs => $1)
    ORDER BY update_time
    LIMIT $2
    FOR UPDATE SKIP LOCKED
) AS old
WHERE reservation.merchant_id = old.merchant_id AND reservation.reservation_id = old.reservation_id
    AND reservation.resolver = old.resolver
""",
)
