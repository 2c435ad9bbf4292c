"""Step 3: the stock of a batch is held before it is decided; what cannot be held is refused for good.

What becomes of a hold after the decision: settle_holds.py. Source: PROTOCOL sections 3, 4.1 and R2.
"""

from __future__ import annotations

from collections.abc import Sequence

from invochain.chassis import faults
from invochain.chassis.isolate import run_isolating_poison
from invochain.errors import Code, ConcurrentRequest, KeyReused, Refusal
from invochain.invoice import attempts
from invochain.invoice.room import InvoiceRoom
from invochain.invoice.standing import answer_loser, read_standings
from invochain.invoice.work import Work


async def reserve(room: InvoiceRoom, work: Work, at: list[int]) -> list[int]:
    """Step 3: hold the stock of a batch; returns what goes on.

    Answers what cannot be held: a refusal is made final by its decision row. What met a busy row is in `work.busy`.
    """
    at = [p for p in at if work.in_time(p)]
    with_stock = [p for p, takes in zip(at, work.drafts.takes_stock(at), strict=True) if takes]
    later = [p for p in with_stock if work.attempt[p] > 1]
    if later and not await _free_earlier_attempts(room, work, later):
        at, with_stock = ([p for p in some if p not in set(later)] for some in (at, with_stock))
    if not with_stock:
        return at
    request = work.drafts.reserve_request(with_stock, [work.attempt[p] for p in with_stock])
    time_left = max(work.calls[p].remaining() for p in with_stock)
    try:
        # A hold that cannot be decided would wait for the resolver.
        await room.postgres.until_free()
        refusals = await room.inventory.reserve(
            request, items=len(with_stock), time_left_s=time_left, trace=work.calls[with_stock[0]].trace
        )
    except Refusal as unknown:
        # Perhaps held, perhaps not: never released here (PROTOCOL R2). The resolver settles it.
        work.fail(with_stock, unknown)
        return [p for p in at if p not in set(with_stock)]
    gone: set[int] = set()
    definite: dict[int, Refusal] = {}
    misused: dict[int, Refusal] = {}
    for position, refusal in zip(with_stock, refusals, strict=True):
        if refusal is None:
            work.held.add(position)
        elif refusal.reason == "RESERVATION_TOMBSTONED":
            work.held.discard(position)
            work.tombstoned.add(position)
        elif refusal.code in (Code.FAILED_PRECONDITION, Code.NOT_FOUND):
            definite[position] = refusal
            gone.add(position)
        elif refusal.reason == KeyReused.reason:
            misused[position] = refusal
            gone.add(position)
        elif refusal.reason == ConcurrentRequest.reason:
            work.busy.add(position)
            gone.add(position)
        else:
            work.refuse(position, refusal)
            gone.add(position)
    if definite:
        await _record_refusals(room, work, definite)
    if misused:
        await _answer_misused(room, work, misused)
    return [p for p in at if p not in gone or p in work.tombstoned]


async def _free_earlier_attempts(room: InvoiceRoom, work: Work, at: list[int]) -> bool:
    """Gives back what earlier attempts may still hold; False: it is not known whether, and all are answered.

    A later attempt is begun only after the row that ends those before it was committed (PROTOCOL R2). Their stock comes
    back behind that answer, or by the resolver: a repeat in between would be refused for what its own request holds.
    """
    earlier = [hold for position in at for hold in work.earlier_holds(position)]
    time_left = max(work.calls[p].remaining() for p in at)
    try:
        reasons = await room.inventory.release_first(earlier, time_left_s=time_left)
    except Refusal as unknown:
        work.fail(at, unknown)
        return False
    # Impossible by design: the settler opens the letters.
    room.settlers.release.soon([hold for hold, reason in zip(earlier, reasons, strict=True) if reason])
    return True


async def _answer_misused(room: InvoiceRoom, work: Work, misused: dict[int, Refusal]) -> None:
    """Answers keys under which stock is held for another body. One that its client ended is ended for every body, at
    once and not only when that hold is gone (PROTOCOL 4.1)."""

    async def one_look(positions: Sequence[int]) -> None:
        async with room.postgres.reading() as tx:
            standings, _day = await read_standings(tx, work, list(positions))
        for position, standing in standings.items():
            if standing is not None and standing.fingerprint is None:
                answer_loser(room, work, position, standing)
            else:
                work.refuse(position, misused[position])

    await run_isolating_poison(list(misused), one_look, work.fail)


async def _record_refusals(room: InvoiceRoom, work: Work, definite: dict[int, Refusal]) -> None:
    """Makes refusals final: FAILED rows, unless something else was decided meanwhile, which is then the answer.

    An aborted attempt whose hold was never made has a row and no tombstone: the refusal cannot end that attempt, so the
    request goes on as the next one.
    """

    async def one_transaction(positions: Sequence[int]) -> None:
        await faults.reach("refuse.known")
        told = await attempts.refuse(room, work, {p: definite[p] for p in positions})
        for position, verdict in told.items():
            if verdict is None:
                work.refuse(position, definite[position], final=True)
            elif verdict.may_go_on(work.fingerprint(position)):
                work.tombstoned.add(position)
            else:
                answer_loser(room, work, position, verdict)

    await run_isolating_poison(list(definite), one_transaction, work.fail)
