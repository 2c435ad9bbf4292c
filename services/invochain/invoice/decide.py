"""Step 4, DECIDE: the fate of every draft of a batch, in one transaction. Nothing outside this file may decide it.

Order of locks: counters, decision rows by rid, invoices by number (PROTOCOL 9). A fixed number of round trips whatever
the size of the batch. Advisory locks are shared here and exclusive where a series is made or a buyer is linked: so
these see every invoice that is being written. Source: PROTOCOL sections 3 (a to e), 4.1 and 9.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import asyncpg

from invochain import core
from invochain.chassis import clock, faults
from invochain.chassis.ids import Id
from invochain.chassis.postgres import Tx
from invochain.durable import outbox
from invochain.errors import DependencyDown, KeyReused, Refusal, SagaAborted, Told, invalid
from invochain.invoice import decide_sql as sql
from invochain.invoice.invoice import CREATE, ISSUED_TYPE, BatchRefused, CancelledByClient, NumberTaken, allowed_actions
from invochain.invoice.room import InvoiceRoom, SeriesKey

if TYPE_CHECKING:
    from invochain.invoice.create_invoice import Work

DOC_TYPE = "INV"
GENESIS = bytes(32)
# Names are locked by bucket, so that a batch of any size takes a bounded number of locks.
LOCK_BUCKETS = 1_024
NUMBERS_OF_MERCHANT, INVOICES_OF_GSTIN = 1, 2
FIRST_ACTIONS = allowed_actions("ISSUED", seller=True, buyer=False)
# INV/2627/00001; more digits when they are needed.
COUNTER_DIGITS = 5
NUMBER_CHARS_MAX = 16


def bucket(name: bytes) -> int:
    """The advisory lock that stands for a name."""
    return zlib.crc32(name) % LOCK_BUCKETS


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


@dataclass(frozen=True, slots=True)
class Standing:
    """What the decision row, or the invoice where that row was purged, says of a request (PROTOCOL R5)."""

    state: str
    attempt: int
    # Absent: the client itself ended the key, whatever the body.
    fingerprint: bytes | None
    answer: bytes | None
    document: bytes | None

    def issued(self, fingerprint: bytes) -> bool:
        return self.state == "SUCCEEDED" and self.fingerprint == fingerprint

    def may_go_on(self, fingerprint: bytes) -> bool:
        """An aborted attempt may be followed by the next one, an open one joined."""
        return self.state in ("ABORTED", "OPEN") and self.fingerprint == fingerprint


class NotWhole(Exception):
    """An all_or_nothing batch would not be issued whole: the transaction is rolled back. Refusals by position."""

    def __init__(self, refusals: Mapping[int, Refusal]) -> None:
        super().__init__()
        self.refusals = dict(refusals)


async def decide(room: InvoiceRoom, work: Work, at: list[int], *, wait: bool = False, whole: bool = False) -> Verdict:
    """Settle the fate of every draft in one transaction, then answer.

    `wait`: wait for a busy counter instead of leaving its items. `whole`: all or none; raises NotWhole and commits
    nothing. Raises CommitUnknown when it is not known whether COMMIT went through.
    """
    verdict = Verdict()
    losers: dict[int, Standing] = {}
    async with room.postgres.transaction(lsn=True) as tx:
        at, verdict.busy, exhausted = await _lock_series(tx, work, at, wait=wait)
        if whole and exhausted:
            raise NotWhole(exhausted)
        won = await _claim(tx, work, at)
        if lost := sorted(set(at) - set(won)):
            losers, verdict.other_day, verdict.unclear = await _read_losers(tx, work, lost)
        now = clock.now()
        numbers = await _take_numbers(tx, work, won)
        issued = _Issued(room, work, won, numbers, clock.micros(now))
        written = await _insert_invoices(tx, issued, now)
        refusals = {p: _number_taken(work, p, n) for p, n in zip(won, numbers, strict=True) if p not in written}
        if whole:
            _insist_on_all(work, verdict, losers, refusals)
        await _insert_children(tx, issued, written)
        await _close_decisions(tx, work, won, refusals)
        await faults.reach("decide.before_commit")
    await faults.reach("decide.committed")
    for position, document in zip(issued.at, issued.documents, strict=True):
        if position in refusals:
            _give_back(room, work, position)
            work.refuse(position, refusals[position], final=True)
        else:
            work.calls[position].out["x-consistency-token"] = tx.lsn
            work.answer(position, core.present_issued(document, FIRST_ACTIONS), replayed=False)
    for position in verdict.unclear:
        work.refuse(position, SagaAborted())
    for position, refusal in exhausted.items():
        # No row was written, so nothing is released either: the resolver frees what is held.
        work.refuse(position, refusal)
    room.settlers.confirm.soon([work.hold(p) for p in won if p in work.held and p not in refusals])
    for position, standing in losers.items():
        if standing.may_go_on(work.fingerprint(position)):
            _give_back(room, work, position)
            verdict.again.append(position)
        else:
            answer_loser(room, work, position, standing)
    return verdict


class _Issued:
    """The columns of what is being issued, by the core's second crossing."""

    def __init__(self, room: InvoiceRoom, work: Work, at: list[int], numbers: list[str], time_micros: int) -> None:
        drafts = work.drafts
        self.work, self.at, self.numbers, self.time_micros = work, at, numbers, time_micros
        self.merchant_ids = drafts.merchant_ids(at)
        self.invoice_ids = drafts.invoice_ids(at)
        self.actors = [work.calls[p].principal.user_id for p in at]
        random = os.urandom(16 * len(at))
        self.salts = [random[i : i + 16] for i in range(0, len(random), 16)]
        self.documents, self.events, self.hashes, self.macs = drafts.finish(
            at,
            numbers,
            drafts.buyer_merchant_ids(at),
            [work.attempt[p] for p in at],
            self.actors,
            self.salts,
            time_micros,
            room.audit_key,
        )


# ---------------------------------------------------------------- inside the transaction, in order


async def _lock_series(
    tx: Tx, work: Work, at: list[int], *, wait: bool
) -> tuple[list[int], dict[SeriesKey, list[int]], dict[int, Refusal]]:
    """Locks the counters of server-numbered items; returns what goes on, what a busy counter holds up, and what finds
    no number left (16 characters are the law's limit, RULES G13)."""
    of_series = _by_series(work, at)
    if not of_series:
        return at, {}, {}
    rows = await tx.fetch(sql.LOCK_SERIES_WAITING if wait else sql.LOCK_SERIES, *_series_columns(of_series), DOC_TYPE)
    last_given = {_series_of(row): row["last_given"] for row in rows}
    busy = {key: positions for key, positions in of_series.items() if key not in last_given}
    exhausted: dict[int, Refusal] = {}
    for key, given in last_given.items():
        left = 10 ** (NUMBER_CHARS_MAX - len(key[3])) - 1 - given
        words = f"{key[3]} has no number of {NUMBER_CHARS_MAX} characters left; another series is wanted"
        for position in of_series[key][max(left, 0) :]:
            exhausted[position] = invalid("invoice.series", "SERIES_EXHAUSTED", words)
    held_up = {p for positions in busy.values() for p in positions}
    return [p for p in at if p not in held_up and p not in exhausted], busy, exhausted


async def _claim(tx: Tx, work: Work, at: list[int]) -> list[int]:
    """Which requests are ours to decide. The losers of a race have no row here."""
    drafts = work.drafts
    first = [p for p in at if work.attempt[p] == 1]
    again = [p for p in at if work.attempt[p] > 1]
    won: set[Id] = set()
    names = _names(work, at)
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


def _names(work: Work, at: list[int]) -> list[tuple[int, int]]:
    """What must not change under us: the series of whoever brings his own number, the buyers we take for unknown."""
    drafts = work.drafts
    names = {
        (NUMBERS_OF_MERCHANT, bucket(merchant))
        for merchant, number in zip(drafts.merchant_ids(at), drafts.numbers(at), strict=True)
        if number
    }
    buyers = zip(drafts.buyer_gstins(at), drafts.buyer_merchant_ids(at), strict=True)
    names.update((INVOICES_OF_GSTIN, bucket(gstin.encode())) for gstin, known in buyers if known is None and gstin)
    return sorted(names)


async def _read_losers(
    tx: Tx, work: Work, lost: list[int]
) -> tuple[dict[int, Standing], dict[int, list[int]], list[int]]:
    """Row and invoice of what was not claimed; what was not claimed for its date only; and what has neither row nor
    invoice, because the rival that stood in the way was rolled back."""
    standings, day = await _standings(tx, work, lost)
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


async def _standings(tx: Tx, work: Work, at: list[int]) -> tuple[dict[int, Standing | None], int]:
    drafts = work.drafts
    rows = await tx.fetch(sql.STANDINGS, drafts.merchant_ids(at), drafts.rids(at), drafts.invoice_ids(at))
    by_rid = {bytes(row["rid"]): row for row in rows}
    ordered = [by_rid[rid] for rid in drafts.rids(at)]
    return {p: _standing(row) for p, row in zip(at, ordered, strict=True)}, rows[0]["day"]


def _standing(row: asyncpg.Record) -> Standing | None:
    if row["document"] is not None:
        # An invoice that exists is SUCCEEDED(its attempt), row or no row (PROTOCOL R5).
        return Standing(
            "SUCCEEDED", row["invoice_attempt"], bytes(row["invoice_fingerprint"]), None, bytes(row["document"])
        )
    if row["state"] is None:
        return None
    return Standing(row["state"], row["attempt"], row["fingerprint"], row["answer"], None)


async def _take_numbers(tx: Tx, work: Work, won: list[int]) -> list[str]:
    """The number of each: the client's, or the next of its series; each counter is moved once, by the count."""
    numbers = dict(zip(won, work.drafts.numbers(won), strict=True))
    of_series = _by_series(work, won)
    if of_series:
        counts = [len(positions) for positions in of_series.values()]
        rows = await tx.fetch(sql.TAKE_NUMBERS, *_series_columns(of_series), DOC_TYPE, counts)
        for row in rows:
            for offset, position in enumerate(of_series[_series_of(row)], start=1):
                numbers[position] = f"{row['prefix']}{row['before'] + offset:0{COUNTER_DIGITS}d}"
    return [numbers[p] for p in won]


async def _insert_invoices(tx: Tx, issued: _Issued, now: object) -> set[int]:
    """Writes the invoices; returns the positions whose number was free."""
    drafts, at = issued.work.drafts, issued.at
    if not at:
        return set()
    supply_types, inter_state, figures = drafts.invoice_columns(at)
    waived = drafts.waived(at)
    rows = await tx.fetch(
        sql.INSERT_INVOICES,
        core.FINGERPRINT_VERSION,
        DOC_TYPE,
        now,
        issued.merchant_ids,
        issued.invoice_ids,
        drafts.rids(at),
        [issued.work.attempt[p] for p in at],
        drafts.fingerprints(at),
        issued.numbers,
        [bool(number) for number in drafts.numbers(at)],
        drafts.seller_gstins(at),
        drafts.financial_years(at),
        supply_types,
        drafts.days(at),
        drafts.buyer_gstins(at),
        drafts.buyer_merchant_ids(at),
        inter_state,
        *figures,
        drafts.takes_stock(at),
        ["UNDER_REVIEW" if violations else "COMPLIANT" for violations in waived],
        issued.documents,
        issued.hashes,
    )
    written = {bytes(row["invoice_id"]) for row in rows}
    return {p for p, invoice_id in zip(at, issued.invoice_ids, strict=True) if invoice_id in written}


async def _insert_children(tx: Tx, issued: _Issued, written: set[int]) -> None:
    """Lines, audit entries and events of what was written."""
    kept = [i for i, position in enumerate(issued.at) if position in written]
    if not kept:
        return
    merchant_ids = [issued.merchant_ids[i] for i in kept]
    invoice_ids = [issued.invoice_ids[i] for i in kept]
    indexes, lines, skus, hsns, units, services, quantities, integers = issued.work.drafts.item_columns(
        [issued.at[i] for i in kept]
    )
    await tx.execute(
        sql.INSERT_ITEMS,
        [merchant_ids[i] for i in indexes],
        [invoice_ids[i] for i in indexes],
        lines,
        skus,
        hsns,
        units,
        services,
        quantities,
        *integers,
    )
    count = len(kept)
    await tx.execute(
        sql.INSERT_AUDIT,
        issued.time_micros,
        merchant_ids,
        invoice_ids,
        [1] * count,
        ["issue"] * count,
        [issued.actors[i] for i in kept],
        merchant_ids,
        [issued.salts[i] for i in kept],
        [None] * count,
        [GENESIS] * count,
        [issued.hashes[i] for i in kept],
        [issued.macs[i] for i in kept],
    )
    await outbox.append_columns(
        tx,
        merchant_ids,
        invoice_ids,
        [1] * count,
        [ISSUED_TYPE] * count,
        [issued.events[i] for i in kept],
        [issued.work.calls[issued.at[i]].trace.traceparent for i in kept],
    )


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
            refused[position] = _told(work, position, standing)
    for left in (*verdict.busy.values(), *verdict.other_day.values(), verdict.unclear):
        refused.update(dict.fromkeys(left, SagaAborted()))
    if refused:
        raise NotWhole(refused)


# ---------------------------------------------------------------- answers for what was decided before


def answer_loser(room: InvoiceRoom, work: Work, position: int, standing: Standing) -> None:
    """Answers a request from what was decided elsewhere, and gives back what its own attempt holds for nothing.

    The winner of the same attempt uses the same hold, so that one stays (PROTOCOL 4.1).
    """
    if standing.issued(work.fingerprint(position)) and standing.document is not None:
        if standing.attempt != work.attempt[position]:
            _give_back(room, work, position)
        work.answer(position, core.present_issued(standing.document, FIRST_ACTIONS), replayed=True)
        return
    _give_back(room, work, position)
    refusal = _told(work, position, standing)
    replayed = standing.state == "FAILED" and not isinstance(refusal, KeyReused)
    # What the client itself ended matches every body: in the cache it would stand for this one alone.
    work.refuse(position, refusal, final=replayed and standing.fingerprint is not None, replayed=replayed)


def _told(work: Work, position: int, standing: Standing) -> Refusal:
    if standing.fingerprint is not None and standing.fingerprint != work.fingerprint(position):
        return KeyReused()
    if standing.state == "FAILED":
        return Told.from_bytes(standing.answer) if standing.answer else CancelledByClient()
    return SagaAborted()


def _give_back(room: InvoiceRoom, work: Work, position: int) -> None:
    """Releases what the position's own attempt holds. Only after a decision says it can never be used (PROTOCOL R2)."""
    if position in work.held:
        work.held.discard(position)
        room.settlers.release.soon([work.hold(position)])


async def after_unknown_commit(room: InvoiceRoom, work: Work, at: list[int]) -> Verdict:
    """COMMIT may have gone through: a row is an answer; no row is none, and nothing is released (PROTOCOL 3)."""
    async with room.postgres.reading() as tx:
        standings, _day = await _standings(tx, work, at)
    for position, standing in standings.items():
        if standing is None or standing.state in ("ABORTED", "OPEN"):
            work.refuse(position, DependencyDown("the database, while COMMIT was under way,"))
        else:
            answer_loser(room, work, position, standing)
    return Verdict()


# ---------------------------------------------------------------- decisions other than DECIDE's own


async def refuse(room: InvoiceRoom, work: Work, refusals: Mapping[int, Refusal]) -> dict[int, Standing | None]:
    """Writes FAILED for refusals known before DECIDE. An entry that is not None was decided otherwise meanwhile."""
    async with room.postgres.transaction() as tx:
        written = await _write_negative(tx, work, {p: ("FAILED", refusal) for p, refusal in refusals.items()})
        missed = [p for p in refusals if p not in written]
        standings = (await _standings(tx, work, missed))[0] if missed else {}
    told: dict[int, Standing | None] = dict.fromkeys(written)
    for position in missed:
        told[position] = standings[position] or Standing("ABORTED", 0, None, None, None)
    return told


async def refuse_whole(room: InvoiceRoom, work: Work, at: list[int], refusals: Mapping[int, Refusal]) -> None:
    """Ends an all_or_nothing batch: FAILED for what was refused for good, ABORTED for the rest; all is released."""
    final = {p: r for p, r in refusals.items() if _is_final(r)}
    states: dict[int, tuple[str, Refusal]] = {p: ("FAILED", r) for p, r in final.items()}
    states.update({p: ("ABORTED", BatchRefused()) for p in at if p not in refusals})
    async with room.postgres.transaction() as tx:
        written = await _write_negative(tx, work, states)
        missed = [p for p in at if p not in written and p not in refusals]
        standings = (await _standings(tx, work, missed))[0] if missed else {}
    for position in at:
        standing = standings.get(position)
        if standing is not None and standing.issued(work.fingerprint(position)):
            answer_loser(room, work, position, standing)
            continue
        if position in written:
            _give_back(room, work, position)
        refusal = refusals.get(position) or BatchRefused()
        work.refuse(position, refusal, final=position in final and position in written)


def _is_final(refusal: Refusal) -> bool:
    return refusal.to_status().code in (5, 6, 9)  # NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION


async def _write_negative(tx: Tx, work: Work, states: Mapping[int, tuple[str, Refusal]]) -> set[int]:
    """Inserts (attempt 1) or closes (later attempts) rows as FAILED or ABORTED; returns the positions written."""
    drafts = work.drafts
    written: set[Id] = set()
    first = [p for p in states if work.attempt[p] == 1]
    later = [p for p in states if work.attempt[p] > 1]

    def answers(at: list[int]) -> list[bytes | None]:
        return [states[p][1].to_status().SerializeToString() if states[p][0] == "FAILED" else None for p in at]

    if first:
        rows = await tx.fetch(
            sql.INSERT_NEGATIVE,
            drafts.merchant_ids(first),
            drafts.rids(first),
            drafts.invoice_ids(first),
            [states[p][0] for p in first],
            [1] * len(first),
            drafts.fingerprints(first),
            [states[p][1].reason for p in first],
            CREATE,
            core.FINGERPRINT_VERSION,
            answers(first),
        )
        written.update(bytes(row["rid"]) for row in rows)
    if later:
        rows = await tx.fetch(
            sql.CLOSE,
            drafts.merchant_ids(later),
            drafts.rids(later),
            [work.attempt[p] for p in later],
            [states[p][0] for p in later],
            [states[p][1].reason for p in later],
            answers(later),
        )
        written.update(bytes(row["rid"]) for row in rows)
    at = [*first, *later]
    return {p for p, rid in zip(at, drafts.rids(at), strict=True) if rid in written}


async def reopen(room: InvoiceRoom, work: Work, at: list[int], *, new_too: bool = False) -> list[int]:
    """ABORTED(n) becomes OPEN(n + 1); an OPEN one is joined. Sets the attempts of what may go on; answers the rest.

    With `new_too` what has no row yet goes on as well, as a first attempt.
    """
    if not at:
        return []
    drafts = work.drafts
    async with room.postgres.transaction() as tx:
        standings, _day = await _standings(tx, work, at)
        aborted = [
            p for p in at if (s := standings[p]) and s.state == "ABORTED" and s.fingerprint == work.fingerprint(p)
        ]
        reopened: dict[Id, int] = {}
        if aborted:
            attempts = [s.attempt for p in aborted if (s := standings[p])]
            rows = await tx.fetch(sql.REOPEN, drafts.merchant_ids(aborted), drafts.rids(aborted), attempts)
            reopened = {bytes(row["rid"]): row["attempt"] for row in rows}
    ready = []
    for position, rid in zip(at, drafts.rids(at), strict=True):
        standing = standings[position]
        if rid in reopened:
            work.attempt[position] = reopened[rid]
            ready.append(position)
        elif standing is None and new_too:
            ready.append(position)
        elif standing is None or (standing.state == "ABORTED" and position in aborted):
            # Nothing there, or a rival reopened it first: a retry finds out.
            work.refuse(position, SagaAborted())
        elif standing.state == "OPEN" and standing.fingerprint == work.fingerprint(position):
            work.attempt[position] = standing.attempt
            ready.append(position)
        else:
            answer_loser(room, work, position, standing)
    return ready


# ---------------------------------------------------------------- server-given numbers


def without_series(room: InvoiceRoom, work: Work, at: list[int]) -> list[int]:
    """The items whose counter row is not known to exist."""
    return [p for key, positions in _by_series(work, at).items() if key not in room.series for p in positions]


async def make_series(room: InvoiceRoom, work: Work, at: list[int]) -> list[int]:
    """Makes counter rows that are missing, in a transaction of their own (a first upsert would block rivals).

    Refuses items whose series has a prefix that the merchant's own numbers use; returns the rest.
    """
    unknown = {key: p for key, p in _by_series(work, at).items() if key not in room.series}
    if not unknown:
        return at
    names = sorted({(NUMBERS_OF_MERCHANT, bucket(key[0])) for key in unknown})
    columns = _series_columns(unknown)
    async with room.postgres.transaction() as tx:
        await tx.execute(sql.LOCK_NAMES_ALONE, [space for space, _ in names], [name for _, name in names])
        await tx.execute(sql.MAKE_SERIES, *columns, DOC_TYPE)
        rows = await tx.fetch(sql.READ_SERIES, *columns, DOC_TYPE)
    there = {_series_of(row) for row in rows}
    room.series |= there
    refused = {p: key for key, positions in unknown.items() if key not in there for p in positions}
    for position, key in refused.items():
        words = f"numbers that begin with {key[3]} were given by the merchant; another series or own numbers are wanted"
        work.refuse(position, invalid("invoice.series", "SERIES_PREFIX_USED", words))
    return [p for p in at if p not in refused]


def _by_series(work: Work, at: list[int]) -> dict[SeriesKey, list[int]]:
    """The items whose number the server gives, by their series, in the order of the keys."""
    server = [p for p, number in zip(at, work.drafts.numbers(at), strict=True) if not number]
    if not server:
        return {}
    drafts = work.drafts
    keys = zip(
        drafts.merchant_ids(server),
        drafts.seller_gstins(server),
        drafts.financial_years(server),
        drafts.series_prefixes(server),
        strict=True,
    )
    of_series: dict[SeriesKey, list[int]] = {}
    for position, key in zip(server, keys, strict=True):
        of_series.setdefault(key, []).append(position)
    return dict(sorted(of_series.items()))


def _series_columns(of_series: Mapping[SeriesKey, Sequence[int]]) -> tuple[list[Id], list[str], list[str], list[str]]:
    keys = list(of_series)
    return [k[0] for k in keys], [k[1] for k in keys], [k[2] for k in keys], [k[3] for k in keys]


def _series_of(row: asyncpg.Record) -> SeriesKey:
    return bytes(row["merchant_id"]), row["seller_gstin"], row["financial_year"], row["prefix"]


def _number_taken(work: Work, position: int, number: str) -> NumberTaken:
    return NumberTaken(number, work.drafts.financial_years([position])[0])
