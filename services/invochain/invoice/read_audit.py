"""The audit chain of one invoice, read from the rows and recomputed (PROTOCOL 11 (a))."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import asyncpg

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.chassis.ids import Id
from invochain.chassis.postgres import Sql, Tx


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change. `time_micros` is microseconds since 1970, UTC."""

    version: int
    action: str
    actor_id: Id
    actor_merchant_id: Id
    time_micros: int
    hash: bytes
    previous: bytes


@dataclass(frozen=True, slots=True)
class AuditTrail:
    """An invoice's entries, oldest first, and what is wrong with the chain (empty: it verifies)."""

    merchant_id: Id
    invoice_id: Id
    number: str
    state: str
    entries: list[AuditEntry]
    broken: str


async def read_audit(tx: Tx, invoice_id: Id, audit_key: bytes) -> AuditTrail | None:
    """Reads and verifies; None if there is no such invoice.

    The payload of the first entry is the document in the invoice's own row, and the newest entry must be the one the
    row names at the row's version: so a change of the business rows is seen, not only one of the audit rows.
    """
    invoice = await tx.fetchrow(INVOICE, invoice_id)
    if invoice is None:
        return None
    rows = await tx.fetch(ENTRIES, invoice["merchant_id"], invoice_id)
    chain = [
        (
            row["version"],
            row["action"],
            row["actor_id"],
            row["actor_merchant_id"],
            row["time_micros"],
            row["salt"],
            invoice["document"] if row["payload"] is None else row["payload"],
            row["previous"],
            row["hash"],
            row["mac"],
        )
        for row in rows
    ]
    fault = core.verify_audit(invoice["merchant_id"], invoice_id, chain, audit_key)
    if fault:
        broken = f"entry {fault[0] + 1}: {fault[1]}"
    elif not rows or rows[-1]["hash"] != invoice["audit_head"] or rows[-1]["version"] != invoice["version"]:
        broken = "the invoice's row does not stand where its newest entry left it"
    elif differing := differing_fields(invoice, rows[-1]["payload"]):
        broken = f"the invoice's row says another {differing} than its entries"
    else:
        broken = ""
    entries = [
        AuditEntry(
            row["version"],
            row["action"],
            bytes(row["actor_id"]),
            bytes(row["actor_merchant_id"]),
            row["time_micros"],
            row["hash"],
            row["previous"],
        )
        for row in rows
    ]
    return AuditTrail(bytes(invoice["merchant_id"]), invoice_id, invoice["number"], invoice["state"], entries, broken)


def differing_fields(invoice: asyncpg.Record, newest: bytes | None) -> str:
    """The first column of the row that is not what the entries say; empty if all agree."""
    document = api.Invoice.FromString(invoice["document"])
    last = document if newest is None else api.Invoice.FromString(newest)
    totals, date = document.totals, document.invoice_date
    told = {
        "state": api.InvoiceState.Name(last.state),
        "reason": last.state_reason,
        "number": document.number,
        "buyer_gstin": document.buyer.gstin,
        "invoice_date": dt.date(date.year, date.month, date.day),
        **{name: getattr(totals, name) for name in FIGURES},
    }
    return next((name for name, value in told.items() if invoice[name] != value), "")


FIGURES = ("taxable_paise", "igst_paise", "cgst_paise", "sgst_paise", "cess_paise", "state_cess_paise", "total_paise")

# By invoice alone: for operators, who know no merchant.
INVOICE = Sql(
    "audit_invoice",
    f"""
SELECT merchant_id, number, state, reason, version, buyer_gstin, invoice_date, {", ".join(FIGURES)}, audit_head,
    document
FROM invoice WHERE invoice_id = $1
""",
)

ENTRIES = Sql(
    "audit_entries",
    """
SELECT version, action, actor_id, actor_merchant_id, time_micros, salt, payload, previous, hash, mac
FROM audit_entry
WHERE merchant_id = $1 AND invoice_id = $2
ORDER BY version
""",
)
