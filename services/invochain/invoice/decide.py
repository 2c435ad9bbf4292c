"""Step 4, DECIDE: the fate of every draft of a batch, in one transaction. Nothing outside this file may decide it.

Order of locks: counters, decision rows by rid, invoices by number (PROTOCOL 9). A fixed number of round trips whatever
the size of the batch. Source: PROTOCOL sections 3 (a to e), 4.1 and 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from invochain import core
from invochain.chassis import clock, faults
from invochain.chassis.ids import Id
from invochain.chassis.postgres import CommitUnknown, Tx
from invochain.errors import Refusal, SagaAborted
from invochain.invoice import decide_sql as sql
from invochain.invoice.invoice import CREATE, FIRST_ACTIONS, NumberTaken
from invochain.invoice.name_locks import names_of
from invochain.invoice.number_series import lock_series, take_numbers
from invochain.invoice.room import InvoiceRoom, SeriesKey
from invochain.invoice.standing import (
    Standing,
    after_unknown_commit,
    answer_loser,
    give_back,
    read_standings,
    refusal_of,
)
from invochain.invoice.work import Work
from invochain.invoice.write_invoices import Issued, insert_invoices


@dataclass(slots=True)
class Verdict:
    """What a transaction left undecided."""

    # An aborted or later attempt stood in the way: the next one may be tried.
    again: list[int] = field(default_factory=list)
    # The counter of the series is held by another batch.
    busy: dict[SeriesKey, list[int]] = field(default_factory=dict)
    # Dated on a day that is not the database's: days since 1970 -> positions.
    other_day: dict[int, list[int]] = field(default_factory=dict)
    # Answered with SagaAborted, and nothing is released: no row says that the attempt can never be used (PROTOCOL R2).
    unclear: list[int] = field(default_factory=list)


class NotWhole(Exception):
    """An all_or_nothing batch would not be issued whole: the transaction is rolled back. Refusals by position."""

    def __init__(self, refusals: Mapping[int, Refusal]) -> None:
        super().__init__()
        self.refusals = dict(refusals)


class SeriesBusy(Exception):
    """A counter of an all_or_nothing batch is another's just now, or not made yet: nothing was done."""


async def decide(room: InvoiceRoom, work: Work, at: list[int], *, wait: bool = False, whole: bool = False) -> Verdict:
    """Settle the fate of every draft in one transaction, then answer.

    `wait`: wait for a busy counter instead of leaving its items. `whole`: all or none; raises NotWhole, or SeriesBusy
    where it does not wait, and commits nothing. Raises CommitUnknown when it is not known whether COMMIT went through.
    """
    verdict = Verdict()
    losers: dict[int, Standing] = {}
    async with room.postgres.transaction(lsn=True) as tx:
        at, verdict.busy, exhausted = await lock_series(tx, work, at, wait=wait)
        if whole and exhausted:
            raise NotWhole(exhausted)
        if whole and verdict.busy and not wait:
            raise SeriesBusy()
        won = await _claim(tx, work, at)
        if lost := sorted(set(at) - set(won)):
            losers, verdict.other_day, verdict.unclear = await _read_losers(tx, work, lost)
        now = clock.now()
        numbers = await take_numbers(tx, work, won)
        issued = Issued(room, work, won, numbers, clock.micros(now))
        written = await insert_invoices(tx, issued, now)
        refusals = {p: _number_taken(work, p, n) for p, n in zip(won, numbers, strict=True) if p not in written}
        if whole:
            _insist_on_all(work, verdict, losers, refusals)
        await _close_decisions(tx, work, won, refusals)
        await faults.reach("decide.before_commit")
    await faults.reach("decide.committed")
    for position, document in zip(issued.at, issued.documents, strict=True):
        if position in refusals:
            give_back(room, work, position)
            work.refuse(position, refusals[position], final=True)
        else:
            work.calls[position].out["x-consistency-token"] = tx.lsn
            work.answer(position, core.present_issued(document, FIRST_ACTIONS), replayed=False)
    for position in verdict.unclear:
        work.refuse(position, SagaAborted())
    for position, refusal in exhausted.items():
        # No row was written, so nothing is released either: the resolver frees what is held.
        work.refuse(position, refusal)
    room.settlers.confirm.soon(work.holds([p for p in won if p in work.held and p not in refusals]))
    for position, standing in losers.items():
        if standing.may_go_on(work.fingerprint(position)):
            give_back(room, work, position)
            verdict.again.append(position)
        else:
            answer_loser(room, work, position, standing)
    return verdict


async def settle_one_batch(room: InvoiceRoom, work: Work, at: list[int], *, wait: bool = False) -> Verdict:
    """`decide`, unless its time is over; and after an unknown COMMIT a fresh look: a row is an answer, none is not."""
    await faults.reach("decide.begin")
    if clock.monotonic() - work.started > room.task_life_s:
        # A zombie that was stopped and came back must decide nothing (PROTOCOL 3a).
        raise SagaAborted()
    try:
        return await decide(room, work, at, wait=wait)
    except CommitUnknown:
        await after_unknown_commit(room, work, at)
        return Verdict()


# ---------------------------------------------------------------- inside the transaction, in order


async def _claim(tx: Tx, work: Work, at: list[int]) -> list[int]:
    """Which requests are ours to decide. The losers of a race have no row here."""
    drafts = work.drafts
    first = [p for p in at if work.attempt[p] == 1]
    again = [p for p in at if work.attempt[p] > 1]
    won: set[Id] = set()
    names = names_of(work, at)
    spaces, buckets = [space for space, _ in names], [bucket_ for _, bucket_ in names]
    if first:
        rows = await tx.fetch(
            sql.CLAIM,
            drafts.merchant_ids(first),
            drafts.rids(first),
            drafts.invoice_ids(first),
            drafts.fingerprints(first),
            drafts.days(first),
            drafts.given_days(first),
            CREATE,
            core.FINGERPRINT_VERSION,
            spaces,
            buckets,
        )
        won.update(bytes(row["rid"]) for row in rows)
    if again:
        rows = await tx.fetch(
            sql.CLAIM_AGAIN,
            drafts.merchant_ids(again),
            drafts.rids(again),
            [work.attempt[p] for p in again],
            drafts.days(again),
            drafts.given_days(again),
            spaces,
            buckets,
        )
        won.update(bytes(row["rid"]) for row in rows)
    return [p for p, rid in zip(at, drafts.rids(at), strict=True) if rid in won]


async def _read_losers(
    tx: Tx, work: Work, lost: list[int]
) -> tuple[dict[int, Standing], dict[int, list[int]], list[int]]:
    """Row and invoice of what was not claimed; what was not claimed for its date only; and what has neither row nor
    invoice, because the rival that stood in the way was rolled back."""
    standings, day = await read_standings(tx, work, lost)
    losers: dict[int, Standing] = {}
    other_day: dict[int, list[int]] = {}
    unclear: list[int] = []
    columns = zip(lost, work.drafts.given_days(lost), work.drafts.days(lost), strict=True)
    for position, given, checked_on in columns:
        standing = standings[position]
        if standing is not None and not (standing.state == "OPEN" and standing.attempt == work.attempt[position]):
            losers[position] = standing
        elif given < 0 and checked_on != day:
            other_day.setdefault(day, []).append(position)
        else:
            unclear.append(position)
    return losers, other_day, unclear


async def _close_decisions(tx: Tx, work: Work, won: list[int], refusals: Mapping[int, Refusal]) -> None:
    """First attempts were claimed as SUCCEEDED; here go the refused ones and the later attempts."""
    drafts = work.drafts
    refused = [p for p in won if p in refusals]
    if refused:
        statuses = [refusals[p].to_status() for p in refused]
        await tx.execute(
            sql.REFUSE_CLAIMED,
            drafts.merchant_ids(refused),
            drafts.rids(refused),
            [refusals[p].reason for p in refused],
            [status.SerializeToString() for status in statuses],
        )
    reopened = [p for p in won if work.attempt[p] > 1 and p not in refusals]
    if reopened:
        await tx.fetch(
            sql.CLOSE,
            drafts.merchant_ids(reopened),
            drafts.rids(reopened),
            [work.attempt[p] for p in reopened],
            ["SUCCEEDED"] * len(reopened),
            [None] * len(reopened),
            [None] * len(reopened),
        )


def _insist_on_all(
    work: Work, verdict: Verdict, losers: Mapping[int, Standing], refusals: Mapping[int, Refusal]
) -> None:
    """An invoice issued earlier for the same key and body counts as issued; anything else ends the batch."""
    refused = dict(refusals)
    for position, standing in losers.items():
        if not standing.issued(work.fingerprint(position)):
            refused[position] = refusal_of(work, position, standing)
    for left in (*verdict.busy.values(), *verdict.other_day.values(), verdict.unclear):
        refused.update(dict.fromkeys(left, SagaAborted()))
    if refused:
        raise NotWhole(refused)


def _number_taken(work: Work, position: int, number: str) -> NumberTaken:
    return NumberTaken(number, work.drafts.financial_years([position])[0])
