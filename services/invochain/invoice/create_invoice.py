"""Issuing invoices: the story. A single request is a batch of one; there is one path."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from invochain import core
from invochain.chassis import clock, faults
from invochain.chassis.batch import let_as_many_begin
from invochain.chassis.call import Call, reply_all
from invochain.chassis.isolate import run_isolating_poison
from invochain.chassis.postgres import CommitUnknown
from invochain.chassis.telemetry import EXPIRED
from invochain.errors import (
    Code,
    DeadlineTooShort,
    DependencyDown,
    FieldViolation,
    InternalError,
    KeyReused,
    MalformedRequest,
    Refusal,
    SagaAborted,
    Told,
)
from invochain.invoice import attempts, decide, number_series
from invochain.invoice.invoice import CREATE, BatchRefused, InvoiceInvalid
from invochain.invoice.outcomes import Asked
from invochain.invoice.room import InvoiceRoom, SeriesKey, Waiting
from invochain.invoice.standing import after_unknown_commit, answer_loser, read_standings
from invochain.invoice.work import Work

# DECIDE is started only with this much left to its caller (PROTOCOL 13).
DECIDE_NEEDS_S = 0.5
# Items of a busy series that are decided together; as many as a batch has at most by default.
LANE_ITEMS_MAX = 500


async def create_invoices(room: InvoiceRoom, calls: list[Call]) -> Collection[Call]:
    """Issue the invoices that wait together; each, with the stock it sells, wholly or not at all.

    Every call gets its own answer, and none can fail its neighbours. The same key with the same body returns the first
    answer; nothing is sold twice. Returns the calls that are answered later, by a lane or by the request they wait for.
    Refuses: ValidationFailed (every broken rule at once), InsufficientStock and SkuNotFound as the inventory says them,
    NumberTaken, KeyReused, ConcurrentRequest, SagaAborted. Unknown outcomes surface as UNAVAILABLE and are safe to
    repeat with the same key. Source: PROTOCOL sections 3 and 9.
    """
    work, live = await check(room, calls)
    asked = _asked(work, live)
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
        lanes = await issue(room, work, await _with_series(room, work, at))
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
        await run_isolating_poison(at, one_transaction, lambda failed, why: _fail(work, failed, why))
    return open_


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


async def issue(room: InvoiceRoom, work: Work, at: list[int], *, second_try: bool = False) -> list[Call]:
    """Reserve, decide, and once more for what an earlier, aborted attempt stood in the way of.

    Returns the calls handed to lanes.
    """
    at = await reserve(room, work, at)
    lanes: dict[SeriesKey, list[int]] = {}
    again: list[int] = []
    other_day: dict[int, list[int]] = {}

    async def one_transaction(positions: Sequence[int]) -> None:
        verdict = await settle_one_batch(room, work, list(positions))
        again.extend(verdict.again)
        for key, busy in verdict.busy.items():
            lanes.setdefault(key, []).extend(busy)
        for day, positions_of_day in verdict.other_day.items():
            other_day.setdefault(day, []).extend(positions_of_day)

    again.extend(position for position in at if position in work.tombstoned)
    # Whose caller has too little time left by now keeps his hold: only a row could say that it is for nothing.
    at = [position for position in at if position not in work.tombstoned and _in_time(work, position)]
    if at:
        # One DECIDE at a time: they would meet at the counter of their series. The next batch reserves meanwhile.
        async with room.deciding:
            let_as_many_begin()
            # The one before may have waited long: whoever is out of time by now is not begun.
            if at := [position for position in at if _in_time(work, position)]:
                await run_isolating_poison(at, one_transaction, lambda failed, why: _fail(work, failed, why))
    handed = to_lanes(room, work, lanes)
    for day, positions in other_day.items():
        handed += await _on_another_day(room, work, positions, day)
    if again and not second_try:
        handed += await _next_attempt(room, work, again)
    elif again:
        for position in again:
            work.refuse(position, SagaAborted())
    return handed


async def reserve(room: InvoiceRoom, work: Work, at: list[int]) -> list[int]:
    """Step 3: hold the stock of a batch. Answers what cannot be held; a refusal is made final by its decision row."""
    at = [p for p in at if _in_time(work, p)]
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
        _fail(work, with_stock, unknown)
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
        else:
            work.refuse(position, refusal)
            gone.add(position)
    if definite:
        await record_refusals(room, work, definite)
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
        _fail(work, at, unknown)
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

    await run_isolating_poison(list(misused), one_look, lambda failed, why: _fail(work, failed, why))


async def record_refusals(room: InvoiceRoom, work: Work, definite: dict[int, Refusal]) -> None:
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

    await run_isolating_poison(list(definite), one_transaction, lambda failed, why: _fail(work, failed, why))


async def settle_one_batch(room: InvoiceRoom, work: Work, at: list[int], *, wait: bool = False) -> decide.Verdict:
    """Step 4, and what an unknown COMMIT asks for: a fresh look, where a row is an answer and none is not."""
    await faults.reach("decide.begin")
    if clock.monotonic() - work.started > room.task_life_s:
        # A zombie that was stopped and came back must decide nothing (PROTOCOL 3a).
        raise SagaAborted()
    try:
        return await decide.decide(room, work, at, wait=wait)
    except CommitUnknown:
        await after_unknown_commit(room, work, at)
        return decide.Verdict()


def to_lanes(room: InvoiceRoom, work: Work, busy: Mapping[SeriesKey, list[int]]) -> list[Call]:
    """Hands items of busy series to their lanes, which delay nobody else; returns their calls."""
    for key, positions in busy.items():
        waiting = [Waiting(work.calls[p], work.attempt[p], p in work.held, work.started) for p in positions]
        if key in room.lanes:
            room.lanes[key] += waiting
        else:
            room.lanes[key] = waiting
            room.spawn(run_lane(room, key))
    return [work.calls[position] for positions in busy.values() for position in positions]


async def run_lane(room: InvoiceRoom, key: SeriesKey) -> None:
    """Decides what waits for a series, batch after batch, until nothing waits."""
    try:
        while room.lanes[key]:
            async with room.lane_turns:
                waiting = room.lanes[key]
                room.lanes[key] = waiting[LANE_ITEMS_MAX:]
                await _one_lane_batch(room, waiting[:LANE_ITEMS_MAX])
    finally:
        # Empty, unless a defect ended the lane: nobody may wait for it then, nor find his key under way for ever.
        left = [one.call for one in room.lanes.pop(key)]
        for call in left:
            call.refuse(InternalError(call.request_id))
        room.outcomes.settle(_unchecked(left), lambda _: None)


async def _one_lane_batch(room: InvoiceRoom, waiting: Sequence[Waiting]) -> None:
    """One transaction that waits for the counter. The requests are of several batches: one crossing makes them one."""
    calls = [one.call for one in waiting]
    try:
        work, live = await check(room, calls)
    except Refusal as refusal:
        reply_all(calls, refusal)
        room.outcomes.settle(_unchecked(calls), lambda _: None)
        return
    work.attempt = [one.attempt for one in waiting]
    work.held = {position for position, one in enumerate(waiting) if one.held}
    work.started = min(one.started for one in waiting)
    # Also what the second look at the rules refuses is no longer under way.
    asked = [*_asked(work, live), *_unchecked([call for p, call in enumerate(calls) if p not in set(live)])]

    # Of the series of another financial year, answered by that lane.
    handed: set[int] = set()

    async def one_transaction(positions: Sequence[int]) -> None:
        verdict = await settle_one_batch(room, work, list(positions), wait=True)
        for position in (*verdict.again, *(p for busy in verdict.busy.values() for p in busy)):
            work.refuse(position, SagaAborted())
        for day, positions_of_day in verdict.other_day.items():
            handed.update(id(call) for call in await _on_another_day(room, work, positions_of_day, day))

    try:
        async with asyncio.timeout(room.task_life_s):
            at = [p for p in live if _in_time(work, p)]
            if at:
                await run_isolating_poison(at, one_transaction, lambda failed, why: _fail(work, failed, why))
    except TimeoutError:
        _fail(work, live, DeadlineTooShort("while it waited for its series"))
    finally:
        for position in live:
            if not calls[position].answer.done() and id(calls[position]) not in handed:
                work.refuse(position, InternalError(calls[position].request_id))
        outcome_of = {id(calls[p]): work.final.get(p) for p in range(len(calls))}
        ended = [one for one in asked if id(one.call) not in handed]
        room.outcomes.settle(ended, lambda call: outcome_of.get(id(call)))


async def _with_series(room: InvoiceRoom, work: Work, at: list[int]) -> list[int]:
    """Sees to it that the counter rows are there; answers those that cannot have one. A busy merchant delays nobody."""
    new = number_series.without_series(room, work, at)
    ready = set(at) - set(new)

    async def one_transaction(positions: Sequence[int]) -> None:
        ready.update(await number_series.make_series(room, work, list(positions)))

    if new:
        await run_isolating_poison(new, one_transaction, lambda failed, why: _fail(work, failed, why))
    return [p for p in at if p in ready]


async def _next_attempt(room: InvoiceRoom, work: Work, at: list[int]) -> list[Call]:
    """An aborted attempt stood in the way (the request began without reading its row): take the next one, once."""
    ready: list[int] = []

    async def one_transaction(positions: Sequence[int]) -> None:
        ready.extend(await attempts.reopen(room, work, list(positions)))

    await run_isolating_poison(at, one_transaction, lambda failed, why: _fail(work, failed, why))
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
    handed = await issue(room, later, await _with_series(room, later, live), second_try=True)
    for index, position in enumerate(at):
        if index in later.final:
            work.final[position] = later.final[index]
    return handed


def _asked(work: Work, at: list[int]) -> list[Asked]:
    columns = zip(at, work.drafts.merchant_ids(at), work.drafts.rids(at), work.drafts.fingerprints(at), strict=True)
    return [Asked(work.calls[p], merchant, CREATE, rid, print_) for p, merchant, rid, print_ in columns]


def _unchecked(calls: Sequence[Call]) -> list[Asked]:
    """Requests that end without an outcome to be kept, so that no fingerprint is needed."""
    ids = [(call, call.principal.merchant_id) for call in calls]
    return [Asked(call, merchant, CREATE, core.request_id(merchant, CREATE, call.key), b"") for call, merchant in ids]


def _in_time(work: Work, position: int) -> bool:
    call = work.calls[position]
    if call.answer.done():
        return False
    if call.remaining() < DECIDE_NEEDS_S:
        EXPIRED.labels(where="decide").inc()
        call.refuse(DeadlineTooShort("before it could be decided"))
        return False
    return True


def _fail(work: Work, positions: Sequence[int], why: Refusal) -> None:
    for position in positions:
        work.refuse(position, Told(why.to_status()) if isinstance(why, Told) else why)


async def create_all_or_nothing(room: InvoiceRoom, calls: list[Call]) -> None:
    """Issue all invoices of a batch, or none: a separate, explicit wish of the caller (PROTOCOL 9).

    On any refusal nothing is issued: the refused items get their reason, the others BatchRefused, which is retryable.
    Answers every call. Lives in a task of its own: a caller who hangs up cancels nothing (PROTOCOL 3).
    """
    try:
        async with asyncio.timeout(room.task_life_s):
            work, live = await check(room, calls)
            if _any_refused(calls):
                # Wrong before anything was begun: nothing is stored, and no key is used.
                for position in live:
                    work.refuse(position, BatchRefused())
                return
            asked = _asked(work, live)
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
        open_ = [p for p in open_ if _in_time(work, p)]
        if _any_refused(work.calls):
            await attempts.refuse_whole(room, work, open_, {})
        elif open_:
            await _decide_whole(room, work, open_)

    at = await _with_series(room, work, at)
    await run_isolating_poison([None], one_try, lambda _, why: _fail(work, at, why))


async def _decide_whole(room: InvoiceRoom, work: Work, at: list[int]) -> None:
    try:
        verdict = await decide.decide(room, work, at, whole=True, wait=True)
    except decide.NotWhole as not_whole:
        await attempts.refuse_whole(room, work, at, not_whole.refusals)
    except CommitUnknown:
        await after_unknown_commit(room, work, at)
    else:
        for position in verdict.again:
            work.refuse(position, SagaAborted())


def _any_refused(calls: Sequence[Call]) -> bool:
    return any(call.answer.done() and call.answer.exception() is not None for call in calls)
