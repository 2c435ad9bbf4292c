"""How holds of invoices stand: for the invoice service, which has to know before it plans a repair."""

from __future__ import annotations

from invochain.api.inventory.v1 import inventory_service_pb2 as pb
from invochain.chassis.ids import Id, from_text, to_text
from invochain.chassis.postgres import Postgres, Sql
from invochain.errors import invalid
from invochain.inventory.reservation import REFS_MAX


async def look_up_holds(postgres: Postgres, request: pb.LookupReservationsRequest) -> pb.LookupReservationsResponse:
    """State and fingerprint of each hold, in order. Refuses: ValidationFailed."""
    refs = request.reservations
    if not 1 <= len(refs) <= REFS_MAX:
        words = f"found {len(refs)}; 1 to {REFS_MAX:,} are wanted"
        raise invalid("reservations", "ITEM_COUNT_OUT_OF_RANGE", words)
    names = [_name(index, ref) for index, ref in enumerate(refs)]
    async with postgres.reading() as tx:
        rows = await tx.fetch(LOOK_UP, [m for m, _ in names], [r for _, r in names])
    known = {(row["merchant_id"], row["reservation_id"]): row for row in rows}
    response = pb.LookupReservationsResponse()
    for name in names:
        row = known.get(name)
        response.standings.add(
            reservation_id=to_text(name[1]),
            state=row["state"] if row else None,
            fingerprint=row["fingerprint"] if row else None,
        )
    return response


def _name(index: int, ref: pb.ReservationRef) -> tuple[Id, Id]:
    field = f"reservations[{index}]"
    return from_text(ref.merchant_id, f"{field}.merchant_id"), from_text(ref.reservation_id, f"{field}.reservation_id")


LOOK_UP = Sql(
    "reservation_look_up",
    """
SELECT merchant_id, reservation_id, state, fingerprint
FROM unnest($1::uuid[], $2::uuid[]) AS asked (merchant_id, reservation_id)
JOIN reservation USING (merchant_id, reservation_id)
WHERE reservation.resolver = 'INVOICE'
""",
)
