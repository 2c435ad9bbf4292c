"""Lanes: what is busy is waited for beside the batches, so that it delays nobody else (PROTOCOL 9).

A busy series has a lane of its own, in which its items are decided together; so has one whose counter cannot be made
just now. Whose stock row is busy waits in the inventory's lane; here its hold is asked for again until the row was free
or the caller's time is over.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeAlias

from invochain.chassis.call import Call
from invochain.chassis.isolate import run_isolating_poison
from invochain.chassis.postgres import PASSING
from invochain.errors import DeadlineTooShort, DependencyDown, InternalError, Refusal, SagaAborted
from invochain.invoice import decide
from invochain.invoice.check_invoices import check
from invochain.invoice.number_series import with_series
from invochain.invoice.room import InvoiceRoom, SeriesKey, Waiting
from invochain.invoice.work import Work, unchecked

# Items of a busy series that are decided together; as many as a batch has at most by default.
LANE_ITEMS_MAX = 500
# The inventory takes its time before it says that a row is busy; this keeps rivals from asking in step.
ASK_AGAIN_S = (0.02, 0.1)

Steps: TypeAlias = Callable[[InvoiceRoom, Work, list[int]], Awaitable[Collection[Call]]]
"""Takes a batch on; returns the calls that are answered later, by whoever has them then."""

OnAnotherDay: TypeAlias = Callable[[InvoiceRoom, Work, list[int], int], Awaitable[list[Call]]]
"""Begins items of a batch again, dated on another day (days since 1970); returns the calls that a lane has then."""


def hold_again(room: InvoiceRoom, work: Work, issue: Steps) -> list[Call]:
    """Has what met a busy stock row issued in a task of its own; returns its calls."""
    at, work.busy = sorted(work.busy), set()
    waiting = [_waiting(work, position) for position in at]

    async def later() -> None:
        await asyncio.sleep(random.uniform(*ASK_AGAIN_S))
        await _once_more(room, waiting, issue)

    if waiting:
        room.spawn(later())
    return [one.call for one in waiting]


def to_lanes(
    room: InvoiceRoom, work: Work, busy: Mapping[SeriesKey, list[int]], on_another_day: OnAnotherDay
) -> list[Call]:
    """Hands items of busy series to their lanes, which delay nobody else; returns their calls."""
    for key, positions in busy.items():
        waiting = [_waiting(work, position) for position in positions]
        if key in room.lanes:
            room.lanes[key] += waiting
        else:
            room.lanes[key] = waiting
            room.spawn(_run_lane(room, key, on_another_day))
    return [work.calls[position] for positions in busy.values() for position in positions]


def _waiting(work: Work, position: int) -> Waiting:
    return Waiting(work.calls[position], work.attempt[position], position in work.held, work.started)


async def _run_lane(room: InvoiceRoom, key: SeriesKey, on_another_day: OnAnotherDay) -> None:
    """Decides what waits for a series, batch after batch, until nothing waits."""
    try:
        while room.lanes[key]:
            async with room.lane_turns:
                waiting = room.lanes[key]
                room.lanes[key] = waiting[LANE_ITEMS_MAX:]
                await _one_lane_batch(room, waiting[:LANE_ITEMS_MAX], on_another_day)
    finally:
        # Empty, unless a defect ended the lane: nobody may wait for it then, nor find his key under way for ever.
        left = [one.call for one in room.lanes.pop(key)]
        for call in left:
            call.refuse(InternalError(call.request_id))
        room.outcomes.settle(unchecked(left), lambda _: None)


async def _one_lane_batch(room: InvoiceRoom, waiting: Sequence[Waiting], on_another_day: OnAnotherDay) -> None:
    """One transaction that waits for the counter, after the one that makes it."""

    async def settle(room: InvoiceRoom, work: Work, at: list[int]) -> list[Call]:
        # Of the series of another financial year, answered by that lane.
        handed: list[Call] = []

        async def one_transaction(positions: Sequence[int]) -> None:
            verdict = await decide.settle_one_batch(room, work, list(positions), wait=True)
            for position in (*verdict.again, *(p for busy in verdict.busy.values() for p in busy)):
                work.refuse(position, SagaAborted())
            for day, positions_of_day in verdict.other_day.items():
                handed.extend(await on_another_day(room, work, positions_of_day, day))

        # Of a merchant's first series the counter may not be there yet.
        if at := [p for p in await with_series(room, work, at, wait=True) if work.in_time(p)]:
            await run_isolating_poison(at, one_transaction, work.fail)
        return handed

    await _once_more(room, waiting, settle)


def _told(error: Exception, call: Call) -> Refusal:
    if isinstance(error, Refusal):
        return error
    return DependencyDown("the database") if isinstance(error, PASSING) else InternalError(call.request_id)


async def _once_more(room: InvoiceRoom, waiting: Sequence[Waiting], steps: Steps) -> None:
    """Takes on what waited, and ends it. The requests are of several batches: one crossing makes them one."""
    calls = [one.call for one in waiting]
    try:
        work, live = await check(room, calls)
    except Exception as error:
        for call in calls:
            call.refuse(_told(error, call))
        room.outcomes.settle(unchecked(calls), lambda _: None)
        if not isinstance(error, (Refusal, *PASSING)):
            raise
        return
    work.attempt = [one.attempt for one in waiting]
    work.held = {position for position, one in enumerate(waiting) if one.held}
    work.started = min(one.started for one in waiting)
    # Also what the second look at the rules refuses is no longer under way.
    asked = [*work.asked(live), *unchecked([call for p, call in enumerate(calls) if p not in set(live)])]
    handed: set[int] = set()
    try:
        async with asyncio.timeout(room.task_life_s):
            if at := [p for p in live if work.in_time(p)]:
                handed = {id(call) for call in await steps(room, work, at)}
    except TimeoutError:
        work.fail(live, DeadlineTooShort("while it waited for what is busy"))
    finally:
        for position in live:
            if not calls[position].answer.done() and id(calls[position]) not in handed:
                work.refuse(position, InternalError(calls[position].request_id))
        outcome_of = {id(calls[p]): work.final.get(p) for p in range(len(calls))}
        ended = [one for one in asked if id(one.call) not in handed]
        room.outcomes.settle(ended, lambda call: outcome_of.get(id(call)))
