"""Issuing invoices: the story. A single request is a batch of one; there is one path.

Each step answers some calls and hands on the rest, as positions in `Work`: check_invoices.py (step 0), then
outcomes.py (1 and 2), hold_stock.py (3), decide.py (4). What meets a busy series or stock row goes on in lanes.py; a
batch that wants all or nothing takes the same steps in all_or_nothing.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from invochain.chassis import clock, faults
from invochain.chassis.batch import let_as_many_begin
from invochain.chassis.call import Call
from invochain.chassis.isolate import run_isolating_poison
from invochain.errors import SagaAborted
from invochain.invoice import attempts, decide
from invochain.invoice.check_invoices import check
from invochain.invoice.hold_stock import reserve
from invochain.invoice.lanes import hold_again, to_lanes
from invochain.invoice.number_series import with_series
from invochain.invoice.room import InvoiceRoom, SeriesKey
from invochain.invoice.work import Work


async def create_invoices(room: InvoiceRoom, calls: list[Call]) -> Collection[Call]:
    """Issue the invoices that wait together; each, with the stock it sells, wholly or not at all.

    Every call gets its own answer, and none can fail its neighbours. The same key with the same body returns the first
    answer; nothing is sold twice. Returns the calls that are answered later, by a lane or by the request they wait for.
    Refuses: ValidationFailed (every broken rule at once), InsufficientStock and SkuNotFound as the inventory says them,
    NumberTaken, KeyReused, ConcurrentRequest, SagaAborted. Unknown outcomes surface as UNAVAILABLE and are safe to
    repeat with the same key. Source: PROTOCOL sections 3 and 9.
    """
    work, live = await check(room, calls)
    asked = work.asked(live)
    go_on, waiting = await room.outcomes.look(asked)
    mine = [asked[position] for position in go_on]
    renewer = asyncio.create_task(room.outcomes.renewing(mine))
    lanes: list[Call] = []
    try:
        await faults.reach("create.marked")
        at = [live[position] for position in go_on]
        if not room.outcomes.sees():
            # Else what was refused long ago would hold stock for a moment, and a replay cost a reservation.
            at = await _look_in_rows(room, work, at)
        lanes = await issue(room, work, await with_series(room, work, at))
    finally:
        renewer.cancel()
        # What a lane still works on is ended by the lane.
        later = {id(call) for call in lanes}
        outcome_of = {id(call): work.final.get(position) for position, call in enumerate(work.calls)}
        room.outcomes.settle([a for a in mine if id(a.call) not in later], lambda call: outcome_of[id(call)])
    return [*waiting, *lanes]


async def _look_in_rows(room: InvoiceRoom, work: Work, at: list[int]) -> list[int]:
    """Step 1 without the cache: answers what its decision row answers; returns the rest, with their attempts."""
    open_: list[int] = []

    async def one_transaction(positions: Sequence[int]) -> None:
        open_.extend(await attempts.reopen(room, work, list(positions), new_too=True))

    if at:
        await run_isolating_poison(at, one_transaction, work.fail)
    return open_


async def issue(room: InvoiceRoom, work: Work, at: list[int], *, second_try: bool = False) -> list[Call]:
    """Reserve, decide, and once more for what an earlier, aborted attempt stood in the way of.

    Returns the calls handed to lanes.
    """
    at = await reserve(room, work, at)
    handed = hold_again(room, work, issue)
    lanes: dict[SeriesKey, list[int]] = {}
    again: list[int] = []
    other_day: dict[int, list[int]] = {}

    async def one_transaction(positions: Sequence[int]) -> None:
        verdict = await decide.settle_one_batch(room, work, list(positions))
        again.extend(verdict.again)
        for key, busy in verdict.busy.items():
            lanes.setdefault(key, []).extend(busy)
        for day, positions_of_day in verdict.other_day.items():
            other_day.setdefault(day, []).extend(positions_of_day)

    again.extend(position for position in at if position in work.tombstoned)
    # Whose caller has too little time left by now keeps his hold: only a row could say that it is for nothing.
    at = [position for position in at if position not in work.tombstoned and work.in_time(position)]
    if at:
        # One DECIDE at a time: they would meet at the counter of their series. The next batch reserves meanwhile.
        async with room.deciding:
            let_as_many_begin()
            # The one before may have waited long: whoever is out of time by now is not begun.
            if at := [position for position in at if work.in_time(position)]:
                await run_isolating_poison(at, one_transaction, work.fail)
    handed += to_lanes(room, work, lanes, _on_another_day)
    for day, positions in other_day.items():
        handed += await _on_another_day(room, work, positions, day)
    if again and not second_try:
        handed += await _next_attempt(room, work, again)
    elif again:
        for position in again:
            work.refuse(position, SagaAborted())
    return handed


async def _next_attempt(room: InvoiceRoom, work: Work, at: list[int]) -> list[Call]:
    """An aborted attempt stood in the way (the request began without reading its row): take the next one, once."""
    ready: list[int] = []

    async def one_transaction(positions: Sequence[int]) -> None:
        ready.extend(await attempts.reopen(room, work, list(positions)))

    await run_isolating_poison(at, one_transaction, work.fail)
    for position in ready:
        work.tombstoned.discard(position)
        work.held.discard(position)
    return await issue(room, work, ready, second_try=True) if ready else []


async def _on_another_day(room: InvoiceRoom, work: Work, at: list[int], day: int) -> list[Call]:
    """Midnight passed between step 0 and the claim: the same requests again, dated as the database dates them, once."""
    date = clock.day_of(day)
    calls = [work.calls[p] for p in at]
    later, live = await check(room, calls, (date.year, date.month, date.day))
    later.attempt = [work.attempt[p] for p in at]
    later.started = work.started
    # The other day may lie in another financial year, whose series is not made yet.
    handed = await issue(room, later, await with_series(room, later, live), second_try=True)
    for index, position in enumerate(at):
        if index in later.final:
            work.final[position] = later.final[index]
    return handed
