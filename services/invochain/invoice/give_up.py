"""Holds that cannot be settled become dead letters: at once if no repeat can help, else after 10 tries or 10 minutes.

A hold that was promised and is gone, or was made for another body, is impossible by design; it never becomes right by
asking again. Source: PROTOCOL 4.2 and 14.
"""

from __future__ import annotations

from collections.abc import Sequence

from invochain import core
from invochain.chassis.ids import to_text
from invochain.chassis.postgres import Postgres
from invochain.durable import dead_letters
from invochain.durable.dead_letters import TRIES_MAX, TRYING_S_MAX, Failed
from invochain.errors import KeyReused
from invochain.invoice.inventory_port import Hold

KINDS = {"confirm": dead_letters.CONFIRM, "release": dead_letters.RELEASE}
# The inventory's answers that stay as they are.
FINAL = frozenset({"RESERVATION_GONE", "RESERVATION_HELD", KeyReused.reason})


class Tries:
    """How often each hold was refused since a resolver began to look; a resolver's own."""

    def __init__(self) -> None:
        self._counts: dict[tuple[bytes, int], int] = {}

    def refused(self, hold: Hold, reason: str, age_ms: int) -> int:
        """Counts a refusal; returns after how many tries the hold is given up now, 0 if it is not."""
        count = self._counts.get((hold.rid, hold.attempt), 0) + 1
        gives_up = reason in FINAL or count >= TRIES_MAX or age_ms >= TRYING_S_MAX * 1_000
        self._counts[hold.rid, hold.attempt] = 0 if gives_up else count
        return count if gives_up else 0

    def keep(self, holds: Sequence[Hold]) -> None:
        """Forgets all but these, which still wait."""
        waiting = {(hold.rid, hold.attempt) for hold in holds}
        self._counts = {key: count for key, count in self._counts.items() if key in waiting}


async def give_up(postgres: Postgres, way: str, refused: Sequence[tuple[Hold, str, int]]) -> None:
    """Opens a letter for each hold, with the reason it was refused for and the number of tries."""
    if not refused:
        return
    async with postgres.transaction() as tx:
        await dead_letters.open_letters(
            tx,
            [
                Failed(
                    kind=KINDS[way],
                    merchant_id=hold.merchant_id,
                    subject=to_text(core.reservation_id(hold.rid, hold.attempt)),
                    aggregate=to_text(core.invoice_id(hold.rid)),
                    reason=reason,
                    rid=hold.rid,
                    attempt=hold.attempt,
                    fingerprint=hold.fingerprint,
                    attempts=tries,
                )
                for hold, reason, tries in refused
            ],
        )
