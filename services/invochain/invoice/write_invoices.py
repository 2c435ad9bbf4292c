"""What an issued invoice is made of, as columns: its row, its lines, its audit entry, its event (PROTOCOL 3 d, e)."""

from __future__ import annotations

import os

from invochain import core
from invochain.chassis.postgres import Tx
from invochain.durable import outbox
from invochain.invoice import decide_sql as sql
from invochain.invoice.invoice import DOC_TYPE, ISSUED_TYPE
from invochain.invoice.room import InvoiceRoom
from invochain.invoice.work import Work

GENESIS = bytes(32)


class Issued:
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


async def insert_invoices(tx: Tx, issued: Issued, now: object) -> set[int]:
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


async def insert_children(tx: Tx, issued: Issued, written: set[int]) -> None:
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
