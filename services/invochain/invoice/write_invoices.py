"""What an issued invoice is made of, as columns: its row, its lines, its audit entry, its event (PROTOCOL 3 d, e)."""

from __future__ import annotations

import datetime as dt
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


async def insert_invoices(tx: Tx, issued: Issued, now: dt.datetime) -> set[int]:
    """Writes the invoices with their lines, audit entries and events; returns the positions whose number was free."""
    drafts, at = issued.work.drafts, issued.at
    if not at:
        return set()
    supply_types, inter_state, figures = drafts.invoice_columns(at)
    event_ids, partitions = outbox.place(issued.invoice_ids, [1] * len(at), [ISSUED_TYPE] * len(at))
    places, lines, skus, hsns, units, services, quantities, integers = drafts.item_columns(at)
    rows = await tx.fetch(
        sql.INSERT_ISSUED,
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
        ["UNDER_REVIEW" if violations else "COMPLIANT" for violations in drafts.waived(at)],
        issued.documents,
        issued.hashes,
        issued.macs,
        issued.actors,
        issued.salts,
        event_ids,
        partitions,
        issued.events,
        [issued.work.calls[p].trace.traceparent for p in at],
        places,
        lines,
        skus,
        hsns,
        units,
        services,
        quantities,
        *integers,
        issued.time_micros,
        GENESIS,
        ISSUED_TYPE,
    )
    return {at[row["place"] - 1] for row in rows}
