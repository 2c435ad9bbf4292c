"""What was decided before: the decision row of a request, or its invoice, and how a request is answered from it."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from invochain import core
from invochain.chassis.postgres import Tx
from invochain.errors import DependencyDown, KeyReused, Refusal, SagaAborted, Told
from invochain.invoice import decide_sql as sql
from invochain.invoice.invoice import FIRST_ACTIONS, CancelledByClient
from invochain.invoice.room import InvoiceRoom
from invochain.invoice.work import Work


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


async def read_standings(tx: Tx, work: Work, at: list[int]) -> tuple[dict[int, Standing | None], int]:
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


def answer_loser(room: InvoiceRoom, work: Work, position: int, standing: Standing) -> None:
    """Answers a request from what was decided elsewhere, and gives back what its own attempt holds for nothing.

    The winner of the same attempt uses the same hold, so that one stays (PROTOCOL 4.1).
    """
    if standing.issued(work.fingerprint(position)) and standing.document is not None:
        if standing.attempt != work.attempt[position]:
            give_back(room, work, position)
        work.answer(position, core.present_issued(standing.document, FIRST_ACTIONS), replayed=True)
        return
    give_back(room, work, position)
    refusal = refusal_of(work, position, standing)
    replayed = standing.state == "FAILED" and not isinstance(refusal, KeyReused)
    # What the client itself ended matches every body: in the cache it would stand for this one alone.
    work.refuse(position, refusal, final=replayed and standing.fingerprint is not None, replayed=replayed)


def refusal_of(work: Work, position: int, standing: Standing) -> Refusal:
    if standing.fingerprint is not None and standing.fingerprint != work.fingerprint(position):
        return KeyReused()
    if standing.state == "FAILED":
        return Told.from_bytes(standing.answer) if standing.answer else CancelledByClient()
    return SagaAborted()


def give_back(room: InvoiceRoom, work: Work, position: int) -> None:
    """Releases what the position's own attempt holds. Only after a decision says it can never be used (PROTOCOL R2)."""
    if position in work.held:
        work.held.discard(position)
        room.settlers.release.soon([work.hold(position)])


async def after_unknown_commit(room: InvoiceRoom, work: Work, at: list[int]) -> None:
    """COMMIT may have gone through: a row is an answer; no row is none, and nothing is released (PROTOCOL 3)."""
    async with room.postgres.reading() as tx:
        standings, _day = await read_standings(tx, work, at)
    for position, standing in standings.items():
        if standing is None or standing.state in ("ABORTED", "OPEN"):
            work.refuse(position, DependencyDown("the database, while COMMIT was under way,"))
        else:
            answer_loser(room, work, position, standing)
