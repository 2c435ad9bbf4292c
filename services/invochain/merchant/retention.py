"""What this room deletes when its duty is done; workers/purger.py asks. Refresh families go with the next sign-in."""

from __future__ import annotations

from invochain.chassis.postgres import Sql, Tx


async def purge(tx: Tx, rows_max: int) -> int:
    """Forgets up to `rows_max` counts of sign-in tries; a quiet hour had made them meaningless long before."""
    return await tx.count(PURGE_ATTEMPTS, rows_max)


PURGE_ATTEMPTS = Sql(
    "sign_in_purge",
    """
DELETE FROM sign_in_attempt
WHERE (scope, subject) IN (
    SELECT scope, subject FROM sign_in_attempt
    WHERE last_time < now() - interval '1 day'
    ORDER BY last_time
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
""",
)
