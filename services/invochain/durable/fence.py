"""Fencing numbers: what makes a lock safe that may have two holders for a moment (chassis/redlock.py).

Every holder gets a number, each higher than all before it under that name. Whoever writes under the lock writes the
number too and only where it is not lower than the one that is there, in the statement of the write itself:

    UPDATE report SET .., fence = $3 WHERE merchant_id = $1 AND report_id = $2 AND fence <= $3

So a holder that was stopped, and goes on when another one has written, changes nothing.
"""

from __future__ import annotations

from invochain.chassis.postgres import Sql, Tx


async def next_number(tx: Tx, name: str) -> int:
    """A number that nobody had before under this name. It is given when `tx` commits; names wait for each other."""
    return int(await tx.fetchval(NEXT, name))


NEXT = Sql(
    "fence_next",
    """
INSERT INTO fence (name, number) VALUES ($1, 1)
ON CONFLICT (name) DO UPDATE SET number = fence.number + 1
RETURNING number
""",
)
