"""Step 0: what a batch asks for, checked in one crossing into the core, before anything is stored or asked for."""

from __future__ import annotations

from collections.abc import Sequence

from invochain import core
from invochain.chassis import clock
from invochain.chassis.call import Call
from invochain.errors import DependencyDown, FieldViolation, MalformedRequest
from invochain.invoice.invoice import InvoiceInvalid
from invochain.invoice.room import InvoiceRoom
from invochain.invoice.work import Work


async def check(
    room: InvoiceRoom, calls: Sequence[Call], today: tuple[int, int, int] | None = None
) -> tuple[Work, list[int]]:
    """Step 0: one crossing into the core. Answers what is wrong; returns the rest."""
    if today is None:
        day = clock.today_ist()
        today = (day.year, day.month, day.day)

    def crossing() -> core.Drafts:
        return core.check_invoices(
            [call.raw for call in calls],
            [call.principal.merchant_id for call in calls],
            [call.key for call in calls],
            today,
            room.parties.directory,
            room.parties.fresh_since_ms(),
        )

    drafts = crossing()
    for _ in range(3):
        sellers = {merchant_id for _, merchant_id in drafts.sellers_not_looked_up}
        buyers = {gstin for _, gstin in drafts.buyers_not_looked_up}
        if not sellers and not buyers:
            break
        # A party not looked up in the last seconds: one query for the batch, then the crossing again. A seller comes
        # to light first, its buyer after it.
        await room.parties.look_up(sellers, buyers)
        drafts = crossing()
    for position, what in drafts.malformed:
        calls[position].refuse(MalformedRequest(what))
    for position, violations in drafts.violations:
        calls[position].refuse(InvoiceInvalid([FieldViolation(*violation) for violation in violations]))
    for position, _ in (*drafts.sellers_not_looked_up, *drafts.buyers_not_looked_up):
        calls[position].refuse(DependencyDown("the merchant directory"))
    return Work(calls, drafts, [1] * len(calls), clock.monotonic()), drafts.live
