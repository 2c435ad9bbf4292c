"""Decisions other than DECIDE's own: attempts that end in a refusal or are aborted, and the next one after them
(PROTOCOL 4.1)."""

from __future__ import annotations

from collections.abc import Mapping

from invochain import core
from invochain.chassis.ids import Id
from invochain.chassis.postgres import Tx
from invochain.errors import Refusal, SagaAborted
from invochain.invoice import decide_sql as sql
from invochain.invoice.invoice import CREATE, BatchRefused
from invochain.invoice.room import InvoiceRoom
from invochain.invoice.standing import Standing, answer_loser, give_back, read_standings
from invochain.invoice.work import Work


async def refuse(room: InvoiceRoom, work: Work, refusals: Mapping[int, Refusal]) -> dict[int, Standing | None]:
    """Writes FAILED for refusals known before DECIDE. An entry that is not None was decided otherwise meanwhile."""
    async with room.postgres.transaction() as tx:
        written = await _write_negative(tx, work, {p: ("FAILED", refusal) for p, refusal in refusals.items()})
        missed = [p for p in refusals if p not in written]
        standings = (await read_standings(tx, work, missed))[0] if missed else {}
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
        standings = (await read_standings(tx, work, missed))[0] if missed else {}
    for position in at:
        standing = standings.get(position)
        if standing is not None and standing.issued(work.fingerprint(position)):
            answer_loser(room, work, position, standing)
            continue
        if position in written:
            give_back(room, work, position)
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
        standings, _day = await read_standings(tx, work, at)
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
