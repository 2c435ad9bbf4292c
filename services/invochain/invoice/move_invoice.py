"""Accept, reject, request an edit, decline it, cancel: one invoice from one state to the next (PROTOCOL 4.3)."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from invochain import core
from invochain.chassis import clock
from invochain.chassis.call import Call
from invochain.chassis.ids import Id, from_text, to_text
from invochain.chassis.isolate import run_isolating_poison
from invochain.chassis.postgres import Sql, Tx
from invochain.durable import outbox
from invochain.durable.decisions import fingerprint
from invochain.errors import KeyReused, Refusal, SagaAborted, Told, VersionMismatch, invalid
from invochain.invoice import decide_sql
from invochain.invoice.invoice import (
    REASON_CHARS_MAX,
    CancelledByClient,
    InvalidState,
    InvoiceNotFound,
    Move,
    allowed_actions,
    state_number,
)
from invochain.invoice.outcomes import Asked, refused, success
from invochain.invoice.room import InvoiceRoom


@dataclass(slots=True, eq=False)
class Wish:
    """One call that wants to move an invoice."""

    call: Call
    move: Move
    invoice_id: Id
    etag: str
    reason: str
    rid: Id
    fingerprint: bytes
    # The seller: his partition holds the invoice and, beside it, the decision row (PROTOCOL 2).
    merchant_id: Id = b""
    final: tuple[bytes, bytes] | None = None

    @property
    def name(self) -> Id:
        """What the cache knows it by: the key and the invoice, so that it answers only what the decision row, which
        lies beside the invoice, would answer. One key for two invoices is a matter for that row."""
        return hashlib.sha256(self.rid + self.invoice_id).digest()[:16]

    def answer(self, response: bytes, *, replayed: bool) -> None:
        self.final = success(response)
        self.call.reply(response, replayed=replayed)

    def refuse(self, refusal: Refusal, *, final: bool = False, replayed: bool = False) -> None:
        if final:
            self.final = refused(refusal)
        self.call.refuse(refusal, replayed=replayed)


def wish(call: Call, move: Move, request: Any) -> Wish:
    """Reads a request; refuses a missing or too long reason, and an id that is none."""
    invoice_id = from_text(request.invoice_id, "invoice_id")
    reason = getattr(request, "reason", "")
    if move.reason_required and not reason.strip():
        raise invalid("reason", "REASON_REQUIRED", f"found nothing; 1 to {REASON_CHARS_MAX} characters are wanted")
    if len(reason) > REASON_CHARS_MAX:
        raise invalid("reason", "TEXT_LENGTH", f"found {len(reason)} characters; {REASON_CHARS_MAX} are allowed")
    if any(unicodedata.category(char) == "Cc" and char not in "\r\n\t" for char in reason):
        raise invalid("reason", "TEXT_CONTROL_CHARACTER", "found a control character; printable text is wanted")
    etag = request.etag or call.if_match.strip('"')
    rid = core.request_id(call.principal.merchant_id, move.operation, call.key)
    return Wish(call, move, invoice_id, etag, reason, rid, fingerprint(request))


async def move_invoices(room: InvoiceRoom, wishes: list[Wish]) -> Collection[Call]:
    """Move the invoices of the calls that wait together, each by its own rules, then answer.

    Returns the calls that wait for another call with their key. Refuses: InvoiceNotFound, InvalidState (final for the
    key), VersionMismatch (leaves no trace), KeyReused, ConcurrentRequest.
    """
    asked = [Asked(w.call, w.call.principal.merchant_id, w.move.operation, w.name, w.fingerprint) for w in wishes]
    go_on, waiting = await room.outcomes.look(asked)
    left = [wishes[position] for position in go_on]
    try:
        left = await _find(room, left)
        while left:
            batch = _apart(left)
            await run_isolating_poison(batch, lambda some: _move(room, some), _fail)
            left = [one for one in left if one not in batch]
    finally:
        final_of = {id(w.call): w.final for w in wishes}
        room.outcomes.settle([asked[position] for position in go_on], lambda call: final_of[id(call)])
    return waiting


def _apart(wishes: Sequence[Wish]) -> list[Wish]:
    """The first of those that share an invoice or a key: two of them are two transactions, in the order they came."""
    batch: list[Wish] = []
    seen: set[Id] = set()
    for one in wishes:
        if seen.isdisjoint((one.invoice_id, one.rid)):
            batch.append(one)
        seen.update((one.invoice_id, one.rid))
    return batch


async def _find(room: InvoiceRoom, wishes: list[Wish]) -> list[Wish]:
    """Whose invoices they are. What the caller may not see is not there."""
    if not wishes:
        return []
    async with room.postgres.reading() as tx:
        rows = await tx.fetch(FIND, [w.call.principal.merchant_id for w in wishes], [w.invoice_id for w in wishes])
    sellers = {(bytes(row["caller"]), bytes(row["invoice_id"])): bytes(row["merchant_id"]) for row in rows}
    found = []
    for one in wishes:
        seller = sellers.get((one.call.principal.merchant_id, one.invoice_id))
        if seller is None:
            one.refuse(InvoiceNotFound(to_text(one.invoice_id)))
        else:
            one.merchant_id = seller
            found.append(one)
    return found


async def _move(room: InvoiceRoom, wishes: Sequence[Wish]) -> None:
    """One transaction: claim the keys, lock the invoices, move those that may be moved, write what follows."""
    answers: dict[Wish, bytes] = {}
    refusals: dict[Wish, Refusal] = {}
    replays: dict[Wish, asyncpg.Record] = {}
    async with room.postgres.transaction(lsn=True) as tx:
        claimed = await _claim(tx, wishes)
        lost = [w for w in wishes if w.rid not in claimed]
        if lost:
            rows = await tx.fetch(READ_DECISIONS, [w.merchant_id for w in lost], [w.rid for w in lost])
            by_rid = {bytes(row["rid"]): row for row in rows}
            replays = {w: by_rid[w.rid] for w in lost if w.rid in by_rid}
        mine = [w for w in wishes if w.rid in claimed]
        invoices = await _lock(tx, mine)
        moved: list[Wish] = []
        for one in mine:
            refusal = _judge(one, invoices.get(one.invoice_id))
            if refusal is None:
                moved.append(one)
            else:
                refusals[one] = refusal
        answers = await _write(tx, room, moved, invoices)
        await _close(tx, answers, refusals)
    for one in wishes:
        if one in answers:
            one.call.out["x-consistency-token"] = tx.lsn
            one.answer(answers[one], replayed=False)
        elif one in refusals:
            one.refuse(refusals[one], final=not isinstance(refusals[one], (VersionMismatch, InvoiceNotFound)))
        elif one in replays:
            _replay(one, replays[one])
        else:
            one.refuse(SagaAborted())


async def _claim(tx: Tx, wishes: Sequence[Wish]) -> set[Id]:
    rows = await tx.fetch(
        CLAIM,
        [w.merchant_id for w in wishes],
        [w.rid for w in wishes],
        [w.move.operation for w in wishes],
        [w.fingerprint for w in wishes],
        core.FINGERPRINT_VERSION,
    )
    return {bytes(row["rid"]) for row in rows}


async def _lock(tx: Tx, wishes: Sequence[Wish]) -> dict[Id, asyncpg.Record]:
    if not wishes:
        return {}
    rows = await tx.fetch(LOCK, [w.merchant_id for w in wishes], [w.invoice_id for w in wishes])
    return {bytes(row["invoice_id"]): row for row in rows}


def _judge(one: Wish, invoice: asyncpg.Record | None) -> Refusal | None:
    """May this caller make this move now?"""
    if invoice is None:
        return InvoiceNotFound(to_text(one.invoice_id))
    caller = one.call.principal.merchant_id
    seller, buyer = caller == invoice["merchant_id"], caller == invoice["buyer_merchant_id"]
    allowed = allowed_actions(invoice["state"], seller=seller, buyer=buyer)
    if one.move.action not in allowed:
        return InvalidState(one.move.action, invoice["state"], allowed)
    if one.etag and one.etag != str(invoice["version"]):
        return VersionMismatch(one.etag, str(invoice["version"]))
    return None


async def _write(
    tx: Tx, room: InvoiceRoom, moved: Sequence[Wish], invoices: dict[Id, asyncpg.Record]
) -> dict[Wish, bytes]:
    """Invoice, audit entry and event of each move; returns the answers."""
    if not moved:
        return {}
    time_micros = clock.micros(clock.now())
    rows = [invoices[w.invoice_id] for w in moved]
    salts = [os.urandom(16) for _ in moved]
    changes = [
        core.change_invoice(
            row["merchant_id"],
            row["invoice_id"],
            row["document"],
            row["buyer_merchant_id"],
            state_number(w.move.ends),
            row["version"] + 1,
            w.move.action,
            w.reason,
            (row["rid"], row["attempt"], row["fingerprint"]) if row["takes_stock"] else None,
            row["audit_head"],
            (w.call.principal.user_id, w.call.principal.merchant_id),
            time_micros,
            salt,
            room.audit_key,
        )
        for w, row, salt in zip(moved, rows, salts, strict=True)
    ]
    updated = await tx.fetch(
        MOVE,
        [row["merchant_id"] for row in rows],
        [row["invoice_id"] for row in rows],
        [row["version"] for row in rows],
        [w.move.ends for w in moved],
        [w.reason for w in moved],
        [hash_ for _, _, hash_, _ in changes],
        [",".join(sorted(w.move.starts)) for w in moved],
        time_micros,
    )
    if len(updated) != len(moved):
        # The rows are locked and were judged: this cannot be.
        raise SagaAborted()
    await tx.execute(
        decide_sql.INSERT_AUDIT,
        time_micros,
        [row["merchant_id"] for row in rows],
        [row["invoice_id"] for row in rows],
        [row["version"] + 1 for row in rows],
        [w.move.action for w in moved],
        [w.call.principal.user_id for w in moved],
        [w.call.principal.merchant_id for w in moved],
        salts,
        [payload for payload, _, _, _ in changes],
        [row["audit_head"] for row in rows],
        [hash_ for _, _, hash_, _ in changes],
        [mac for _, _, _, mac in changes],
    )
    await outbox.append_columns(
        tx,
        [row["merchant_id"] for row in rows],
        [row["invoice_id"] for row in rows],
        [row["version"] + 1 for row in rows],
        [w.move.event for w in moved],
        [event for _, event, _, _ in changes],
        [w.call.trace.traceparent for w in moved],
    )
    return {w: _present(w, row, time_micros) for w, row in zip(moved, rows, strict=True)}


def _present(one: Wish, row: asyncpg.Record, time_micros: int) -> bytes:
    caller = one.call.principal.merchant_id
    actions = allowed_actions(
        one.move.ends, seller=caller == row["merchant_id"], buyer=caller == row["buyer_merchant_id"]
    )
    return core.present_invoice(
        row["document"],
        state_number(one.move.ends),
        row["version"] + 1,
        time_micros,
        one.reason,
        row["buyer_merchant_id"],
        actions,
        True,
    )


async def _close(tx: Tx, answers: dict[Wish, bytes], refusals: dict[Wish, Refusal]) -> None:
    """The decision rows this transaction claimed: answered, refused for good, or taken back as if never claimed."""
    done = [
        *((w, "SUCCEEDED", None, answer) for w, answer in answers.items()),
        *(
            (w, "FAILED", refusal.reason, refusal.to_status().SerializeToString())
            for w, refusal in refusals.items()
            if isinstance(refusal, InvalidState)
        ),
    ]
    if done:
        await tx.execute(
            CLOSE,
            [w.merchant_id for w, *_ in done],
            [w.rid for w, *_ in done],
            [state for _, state, _, _ in done],
            [reason for _, _, reason, _ in done],
            [answer for *_, answer in done],
        )
    back = [w for w, refusal in refusals.items() if not isinstance(refusal, InvalidState)]
    if back:
        await tx.execute(UNCLAIM, [w.merchant_id for w in back], [w.rid for w in back])


def _replay(one: Wish, row: asyncpg.Record) -> None:
    if row["fingerprint"] is None:
        # Not kept in the cache: there it would stand for this body alone, and the row matches every body.
        one.refuse(CancelledByClient(), replayed=True)
    elif row["fingerprint"] != one.fingerprint:
        one.refuse(KeyReused())
    elif row["state"] == "SUCCEEDED":
        one.answer(bytes(row["answer"]), replayed=True)
    elif row["state"] == "FAILED":
        one.refuse(Told.from_bytes(row["answer"]), final=True, replayed=True)
    else:
        one.refuse(SagaAborted())


def _fail(wishes: Sequence[Wish], why: Refusal) -> None:
    for one in wishes:
        one.refuse(why)


FIND = Sql(
    "invoice_find",
    """
SELECT asked.caller, invoice.merchant_id, invoice.invoice_id
FROM unnest($1::uuid[], $2::uuid[]) AS asked (caller, invoice_id)
JOIN invoice ON invoice.merchant_id = asked.caller AND invoice.invoice_id = asked.invoice_id
UNION
SELECT asked.caller, invoice.merchant_id, invoice.invoice_id
FROM unnest($1::uuid[], $2::uuid[]) AS asked (caller, invoice_id)
JOIN invoice ON invoice.buyer_merchant_id = asked.caller AND invoice.invoice_id = asked.invoice_id
""",
)

CLAIM = Sql(
    "move_claim",
    """
INSERT INTO decision (merchant_id, rid, operation, state, attempt, fingerprint, fp_version)
SELECT asked.merchant_id, asked.rid, asked.operation, 'OPEN', 1, asked.fingerprint, $5
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[]) AS asked (merchant_id, rid, operation, fingerprint)
ORDER BY asked.merchant_id, asked.rid
ON CONFLICT DO NOTHING
RETURNING rid
""",
)

READ_DECISIONS = Sql(
    "move_read_decisions",
    """
SELECT decision.rid, decision.state, decision.fingerprint, decision.answer
FROM decision
JOIN unnest($1::uuid[], $2::uuid[]) AS asked (merchant_id, rid)
    ON decision.merchant_id = asked.merchant_id AND decision.rid = asked.rid
""",
)

LOCK = Sql(
    "move_lock",
    """
SELECT invoice.merchant_id, invoice.invoice_id, invoice.rid, invoice.attempt, invoice.fingerprint,
    invoice.buyer_merchant_id, invoice.state, invoice.version, invoice.takes_stock, invoice.document, invoice.audit_head
FROM invoice
JOIN unnest($1::uuid[], $2::uuid[]) AS asked (merchant_id, invoice_id)
    ON invoice.merchant_id = asked.merchant_id AND invoice.invoice_id = asked.invoice_id
ORDER BY invoice.merchant_id, invoice.invoice_id
FOR NO KEY UPDATE OF invoice
""",
)

# The guards are in the statement, not only in the judgement before it (PROTOCOL 4.3).
MOVE = Sql(
    "move_update",
    """
UPDATE invoice
SET state = asked.ends, reason = asked.reason, version = invoice.version + 1, audit_head = asked.audit_head,
    update_time = TIMESTAMPTZ 'epoch' + $8::bigint * INTERVAL '1 microsecond'
FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::bytea[], $7::text[])
    AS asked (merchant_id, invoice_id, version, ends, reason, audit_head, starts)
WHERE invoice.merchant_id = asked.merchant_id
    AND invoice.invoice_id = asked.invoice_id
    AND invoice.version = asked.version
    AND invoice.state = ANY (string_to_array(asked.starts, ','))
RETURNING invoice.invoice_id
""",
)

CLOSE = Sql(
    "move_close",
    """
UPDATE decision SET state = done.state, reason = done.reason, answer = done.answer, update_time = now()
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bytea[])
    AS done (merchant_id, rid, state, reason, answer)
WHERE decision.merchant_id = done.merchant_id AND decision.rid = done.rid AND decision.state = 'OPEN'
    AND decision.attempt = 1
""",
)

# VERSION_MISMATCH leaves no trace: the transaction deletes its own new row (PROTOCOL 3e).
UNCLAIM = Sql(
    "move_unclaim",
    """
DELETE FROM decision
USING unnest($1::uuid[], $2::uuid[]) AS asked (merchant_id, rid)
WHERE decision.merchant_id = asked.merchant_id AND decision.rid = asked.rid AND decision.state = 'OPEN'
    AND decision.attempt = 1
""",
)
