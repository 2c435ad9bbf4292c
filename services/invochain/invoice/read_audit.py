"""The audit chain of one invoice, read from the rows and recomputed (PROTOCOL 11 (a))."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
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
    elif differing := differing_line(
        api.Invoice.FromString(invoice["document"]), await tx.fetch(ITEMS, invoice["merchant_id"], invoice_id)
    ):
        broken = f"the invoice's lines say another {differing} than its entries"
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
    """The first column of the row that is not what the entries say; empty if all agree. The row has COLUMNS."""
    document = api.Invoice.FromString(invoice["document"])
    last = document if newest is None else api.Invoice.FromString(newest)
    totals, date = document.totals, document.invoice_date
    told = {
        "state": api.InvoiceState.Name(last.state),
        "reason": last.state_reason,
        "number": document.number,
        "number_key": document.number.upper(),
        "doc_type": api.DocumentType.Name(document.doc_type),
        "supply_type": api.SupplyType.Name(document.supply_type),
        "seller_gstin": document.seller.gstin,
        "buyer_gstin": document.buyer.gstin,
        "invoice_date": dt.date(date.year, date.month, date.day),
        "financial_year": document.financial_year,
        "inter_state": document.inter_state,
        "takes_stock": any(line.sku for line in document.lines),
        "compliance_status": api.ComplianceStatus.Name(document.compliance_status),
        "create_time": document.create_time.ToDatetime(dt.UTC),
        **{name: getattr(totals, name) for name in FIGURES},
    }
    return next((name for name, value in told.items() if invoice[name] != value), "")


def differing_line(document: api.Invoice, items: Sequence[asyncpg.Record]) -> str:
    """The first line whose row is not what the document says, with the column; empty if all agree.

    `items` are the invoice's rows with ITEM_COLUMNS, by line.
    """
    if [item["line"] for item in items] != list(range(1, len(document.lines) + 1)):
        return f"lines: rows {[item['line'] for item in items][:20]} for {len(document.lines)} lines"
    for item, line in zip(items, document.lines, strict=True):
        told = {
            "sku": line.sku.upper() or None,
            "hsn": line.hsn,
            "unit": line.unit,
            "is_service": line.is_service,
            "quantity_milli": line.quantity_milli if line.HasField("quantity_milli") else None,
            "cess_paise": line.cess_paise + line.cess_nonadvol_paise,
            "state_cess_paise": line.state_cess_paise + line.state_cess_nonadvol_paise,
            **{name: getattr(line, name) for name in _LINE_FIGURES},
        }
        if differing := next((name for name, value in told.items() if item[name] != value), ""):
            return f"{differing} of line {item['line']}"
    return ""


FIGURES = (
    *("taxable_paise", "igst_paise", "cgst_paise", "sgst_paise", "cess_paise", "state_cess_paise", "total_paise"),
    *("discount_paise", "other_charges_paise", "round_off_paise"),
)
_LINE_FIGURES = (
    *("unit_price_milli", "gst_rate_milli", "gross_paise", "discount_paise", "taxable_paise"),
    *("igst_paise", "cgst_paise", "sgst_paise", "total_paise"),
)
COLUMNS = (
    *("merchant_id", "invoice_id", "number", "number_key", "doc_type", "supply_type", "state", "reason", "version"),
    *("seller_gstin", "buyer_gstin", "invoice_date", "financial_year", "inter_state", "takes_stock"),
    *("compliance_status", "create_time", "audit_head", "document", *FIGURES),
)
ITEM_COLUMNS = (
    *("line", "sku", "hsn", "unit", "is_service", "quantity_milli", "cess_paise", "state_cess_paise"),
    *_LINE_FIGURES,
)

# By invoice alone: for operators, who know no merchant.
INVOICE = Sql(
    "audit_invoice",
    f"""
SELECT {", ".join(COLUMNS)} FROM invoice WHERE invoice_id = $1
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

ITEMS = Sql(
    "audit_items",
    f"""
SELECT {", ".join(ITEM_COLUMNS)} FROM invoice_item
WHERE merchant_id = $1 AND invoice_id = $2
ORDER BY line
""",
)
