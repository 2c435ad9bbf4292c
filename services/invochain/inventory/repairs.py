"""What a replay does about holds that were not sold or not given back: the move that follows from the hold's state."""

from __future__ import annotations

from dataclasses import dataclass

from invochain.chassis.ids import from_text, to_text
from invochain.chassis.postgres import Postgres, Sql
from invochain.durable import dead_letters
from invochain.durable.dead_letters import Failed, Letter, Plan, Repair
from invochain.durable.parking import parking_repairs
from invochain.errors import Refusal
from invochain.inventory.settle_reservation import REVERSE, SELL, Move, Ref, judge, settle

KIND_OF = {SELL.name: dead_letters.SELL, REVERSE.name: dead_letters.REVERSE}


def repairs(postgres: Postgres) -> dict[str, Repair]:
    """The kinds of dead letters of this room."""
    moves = {KIND_OF[move.name]: MoveRepair(postgres, move) for move in (SELL, REVERSE)}
    return {**parking_repairs(postgres), **moves}


def failed(move: Move, ref: Ref, refusal: Refusal, trace_id: str) -> Failed:
    """A hold that cannot be sold or given back: impossible by design, so a letter at once (PROTOCOL 14)."""
    reservation_id = to_text(ref.reservation_id)
    return Failed(
        kind=KIND_OF[move.name],
        merchant_id=ref.merchant_id,
        subject=reservation_id,
        aggregate=to_text(ref.invoice_id) if ref.invoice_id else reservation_id,
        reason=refusal.reason,
        detail=str(refusal),
        rid=ref.rid,
        attempt=ref.attempt,
        fingerprint=ref.fingerprint,
        trace_id=trace_id,
    )


@dataclass(frozen=True)
class MoveRepair:
    """Sells or reverses the hold, if it is not so already."""

    postgres: Postgres
    move: Move

    async def plan(self, letter: Letter) -> Plan:
        ref = _ref(letter)
        async with self.postgres.reading() as tx:
            row = await tx.fetchrow(STANDING, ref.merchant_id, ref.reservation_id)
        state = row["state"] if row else None
        found = f"hold {letter.subject} is {state or 'not there'}"
        told = judge(self.move, ref, state, row["fingerprint"] if row else None)
        if isinstance(told, str):
            return Plan(found)
        if isinstance(told, Refusal):
            found += f", which refuses it now: {told.reason}"
        return Plan(found, (f"{self.move.name} hold {letter.subject}",))

    async def repair(self, letter: Letter) -> None:
        ref = _ref(letter)
        outcome = (await settle(self.postgres, self.move, [ref]))[ref.merchant_id, ref.reservation_id]
        if isinstance(outcome, Refusal):
            raise outcome


def _ref(letter: Letter) -> Ref:
    return Ref(
        letter.merchant_id,
        from_text(letter.subject, "subject"),
        letter.fingerprint,
        letter.rid or bytes(16),
        letter.attempt or 1,
        from_text(letter.aggregate, "aggregate"),
    )


STANDING = Sql(
    "reservation_standing",
    """
SELECT state, fingerprint FROM reservation
WHERE merchant_id = $1 AND reservation_id = $2 AND resolver = 'INVOICE'
""",
)
