"""A batch that is issued whole or not at all: a separate, explicit wish of the caller (PROTOCOL 9).

The same steps as create_invoice.py, with one difference: a refusal of one item ends them all. Whole batches come one at
a time, take turns with the others at DECIDE, and wait for a busy counter as a lane does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from invochain.chassis import clock
from invochain.chassis.batch import let_the_next_begin
from invochain.chassis.call import Call, reply_all
from invochain.chassis.isolate import run_isolating_poison
from invochain.chassis.postgres import CommitUnknown
from invochain.errors import ConcurrentRequest, DeadlineTooShort, InternalError, Refusal, SagaAborted
from invochain.invoice import attempts, decide
from invochain.invoice.check_invoices import check
from invochain.invoice.hold_stock import reserve
from invochain.invoice.invoice import BatchRefused
from invochain.invoice.number_series import with_series
from invochain.invoice.room import InvoiceRoom
from invochain.invoice.standing import after_unknown_commit
from invochain.invoice.work import Work


async def create_all_or_nothing(room: InvoiceRoom, calls: list[Call]) -> None:
    """Issue all invoices of a batch, or none.

    On any refusal nothing is issued: the refused items get their reason, the others BatchRefused, which is retryable.
    Answers every call. Its task is not the caller's: one who hangs up cancels nothing (PROTOCOL 3).
    """
    try:
        async with asyncio.timeout(room.task_life_s):
            work, live = await check(room, calls)
            if _any_refused(calls):
                # Wrong before anything was begun: nothing is stored, and no key is used.
                for position in live:
                    work.refuse(position, BatchRefused())
                return
            asked = work.asked(live)
            go_on, _waiting = await room.outcomes.look(asked)
            mine = [asked[position] for position in go_on]
            renewer = asyncio.create_task(room.outcomes.renewing(mine))
            try:
                await _issue_whole(room, work, [live[position] for position in go_on])
            finally:
                renewer.cancel()
                outcome_of = {id(call): work.final.get(position) for position, call in enumerate(calls)}
                room.outcomes.settle(mine, lambda call: outcome_of[id(call)])
    except TimeoutError:
        reply_all(calls, DeadlineTooShort("while its batch was under way"))
    except Refusal as refusal:
        reply_all(calls, refusal)
    finally:
        for call in calls:
            call.refuse(InternalError(call.request_id))


async def _issue_whole(room: InvoiceRoom, work: Work, at: list[int]) -> None:
    """Read, reserve, decide. The batch is one item to whoever takes failed batches apart: it is never cut."""

    async def one_try(_whole: Sequence[None]) -> None:
        if clock.monotonic() - work.started > room.task_life_s:
            raise SagaAborted()
        # Unlike a single request, this one reads before it begins: an earlier try of the batch may have aborted it.
        open_ = await attempts.reopen(room, work, at, new_too=True)
        if not _any_refused(work.calls):
            open_ = await reserve(room, work, open_)
        for position in work.tombstoned:
            work.refuse(position, SagaAborted())
        for position in work.busy:
            work.refuse(position, ConcurrentRequest())
        if _any_refused(work.calls):
            await attempts.refuse_whole(room, work, open_, {})
        elif open_:
            await _decide_whole(room, work, open_)

    at = await with_series(room, work, at)
    await run_isolating_poison([None], one_try, lambda _, why: work.fail(at, why))


async def _decide_whole(room: InvoiceRoom, work: Work, at: list[int]) -> None:
    try:
        verdict = await _decide_in_turn(room, work, at)
    except decide.NotWhole as not_whole:
        await attempts.refuse_whole(room, work, at, not_whole.refusals)
    except CommitUnknown:
        await after_unknown_commit(room, work, at)
    else:
        for position in verdict.again:
            work.refuse(position, SagaAborted())


async def _decide_in_turn(room: InvoiceRoom, work: Work, at: list[int]) -> decide.Verdict:
    """DECIDE, taking turns with the batches of single requests; once more where a counter is busy, to wait for it."""
    try:
        async with room.deciding:
            _insist_on_time(work, at)
            return await decide.decide(room, work, at, whole=True)
    except decide.SeriesBusy:
        let_the_next_begin()
    # Of the connections that may wait for a counter whole batches take one, so that they leave lanes the others.
    async with room.whole_turn, room.lane_turns:
        _insist_on_time(work, at)
        await with_series(room, work, at, wait=True)
        _insist_on_time(work, at)
        return await decide.decide(room, work, at, whole=True, wait=True)


def _insist_on_time(work: Work, at: list[int]) -> None:
    """Whoever has too little time left, or was refused meanwhile, ends the batch."""
    if not all(work.in_time(position) for position in at):
        raise decide.NotWhole({})


def _any_refused(calls: Sequence[Call]) -> bool:
    return any(call.answer.done() and call.answer.exception() is not None for call in calls)
