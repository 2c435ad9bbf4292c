"""What must hold inside the invoice service's database: I8 to I10, I12, I13, and its part of I18 and I20."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import asyncpg

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.chassis import secrets
from invochain.chassis.ids import to_text
from invochain.check.rule import Compare, Row, Scan, by_key, sql
from invochain.check.snapshot import Databases
from invochain.invoice.read_audit import COLUMNS, ITEM_COLUMNS, differing_fields, differing_line

INVOICE = {"merchant_id": "uuid", "invoice_id": "uuid"}
DECISION = {"merchant_id": "uuid", "rid": "uuid"}
ITEM = {"merchant_id": "uuid", "invoice_id": "uuid", "line": "integer"}
ENTRY = {"merchant_id": "uuid", "invoice_id": "uuid", "version": "bigint"}
# Decision rows are deleted after 8 days; an hour before that nobody asks for them any longer.
DECISION_AGE = "interval '8 days' - interval '1 hour'"

# ---- I8
INVOICE_BY_KEY = by_key("invoice", "invoice", *INVOICE)
INVOICES = f"""
SELECT asked.place, invoice.rid, invoice.attempt, invoice.fingerprint, invoice.fp_version
FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS asked (merchant_id, invoice_id, place)
{INVOICE_BY_KEY}
"""


async def _decided(_: Databases, connection: asyncpg.Connection, rows: Sequence[Row], __: float) -> list[str]:
    ids = [core.invoice_id(row["rid"]) for row in rows]
    found = {row["place"] - 1: row for row in await connection.fetch(INVOICES, [r["merchant_id"] for r in rows], ids)}
    faults = []
    for place, row in enumerate(rows):
        invoice, rid = found.get(place), to_text(row["rid"])
        if row["state"] != "SUCCEEDED":
            if invoice is not None:
                faults.append(f"request {rid}: its decision is {row['state']}, yet there is an invoice")
        elif invoice is None:
            faults.append(f"request {rid}: it SUCCEEDED, but there is no invoice")
        elif any(invoice[name] != row[name] for name in ("rid", "attempt", "fingerprint", "fp_version")):
            faults.append(f"request {rid}: invoice {to_text(ids[place])} is of another request, attempt or body")
    return faults


DECIDED = Compare(
    Scan(
        "invoice",
        "decision",
        DECISION,
        columns="merchant_id, rid, state, attempt, fingerprint, fp_version",
        where="operation = 'invoice.create'",
    ),
    _decided,
    {"invoice": (INVOICES,)},
)

HAS_DECISION = sql(
    "invoice",
    "invoice",
    INVOICE,
    f"""CASE WHEN subject.create_time > now() - ({DECISION_AGE}) AND NOT EXISTS (
            SELECT FROM decision
            WHERE decision.merchant_id = subject.merchant_id AND decision.rid = subject.rid
                AND decision.state = 'SUCCEEDED' AND decision.attempt = subject.attempt
        ) THEN format('invoice %s: it has no decision that says SUCCEEDED', subject.invoice_id) END""",
    columns="merchant_id, invoice_id, rid, attempt, create_time",
)

# ---- I9
NUMBER_ONCE = sql(
    "invoice",
    "invoice",
    INVOICE,
    """CASE WHEN EXISTS (
            SELECT FROM invoice AS other
            WHERE other.merchant_id = subject.merchant_id AND other.seller_gstin = subject.seller_gstin
                AND other.doc_type = subject.doc_type AND other.financial_year = subject.financial_year
                AND other.number_key = subject.number_key AND other.invoice_id <> subject.invoice_id
        ) THEN format('invoice %s: another one has its number', subject.invoice_id) END""",
    columns="merchant_id, invoice_id, seller_gstin, doc_type, financial_year, number_key",
)

SERIES_WHOLE = sql(
    "invoice",
    "number_series",
    {"merchant_id": "uuid", "seller_gstin": "text", "doc_type": "text", "financial_year": "text", "prefix": "text"},
    """CASE WHEN subject.last_given <> given.count OR subject.last_given <> given.highest
        THEN format('series %s of %s: %s given, %s invoices, the highest is %s',
            subject.prefix, subject.merchant_id, subject.last_given, given.count, given.highest) END""",
    joins="""CROSS JOIN LATERAL (
        SELECT count(*) AS count, coalesce(max(
            CASE WHEN substr(number_key, length(subject.prefix) + 1) ~ '^[0-9]{1,16}$'
                THEN substr(number_key, length(subject.prefix) + 1)::bigint ELSE -1 END
        ), 0) AS highest
        FROM invoice
        WHERE invoice.merchant_id = subject.merchant_id AND invoice.seller_gstin = subject.seller_gstin
            AND invoice.doc_type = subject.doc_type AND invoice.financial_year = subject.financial_year
            AND starts_with(invoice.number_key, subject.prefix)
    ) AS given""",
    # Each one counts a whole series.
    limit=50,
)

# ---- I10
_SUMMED = ("taxable_paise", "igst_paise", "cgst_paise", "sgst_paise", "cess_paise", "state_cess_paise")
_SUMS = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in (*_SUMMED, "total_paise"))

HEADER_IS_SUM = sql(
    "invoice",
    "invoice",
    INVOICE,
    f"""CASE
        WHEN ({", ".join(f"subject.{n}" for n in _SUMMED)}) <> ({", ".join(f"line.{n}" for n in _SUMMED)})
        THEN format('invoice %s: its figures are not the sums of its lines', subject.invoice_id)
        WHEN subject.total_paise
            <> line.total_paise + subject.other_charges_paise - subject.discount_paise + subject.round_off_paise
        THEN format('invoice %s: its total is not that of its lines, charges, discount and rounding',
            subject.invoice_id)
        WHEN subject.cgst_paise <> subject.sgst_paise OR (subject.igst_paise <> 0 AND subject.cgst_paise <> 0)
        THEN format('invoice %s: CGST and SGST differ, or stand beside IGST', subject.invoice_id) END""",
    columns=f"merchant_id, invoice_id, total_paise, other_charges_paise, discount_paise, round_off_paise, "
    f"{', '.join(_SUMMED)}",
    joins=f"""CROSS JOIN LATERAL (
        SELECT {_SUMS} FROM invoice_item
        WHERE invoice_item.merchant_id = subject.merchant_id AND invoice_item.invoice_id = subject.invoice_id
    ) AS line""",
)

# Exact arithmetic in numeric: round() goes half away from zero, and no taxable value is below zero (RULES G39).
TAX_DIFFERS = f"""
SELECT item.merchant_id, item.invoice_id, item.line, invoice.document
FROM unnest($1::uuid[], $2::uuid[]) AS asked (merchant_id, invoice_id)
{INVOICE_BY_KEY}
{by_key("invoice_item", "item", *INVOICE)}
CROSS JOIN LATERAL (
    SELECT item.taxable_paise::numeric
        * CASE WHEN invoice.supply_type IN ('SEZWOP', 'EXPWOP') THEN 0 ELSE item.gst_rate_milli END AS taxed
) AS base
WHERE item.taxable_paise <> item.gross_paise - item.discount_paise
    OR item.igst_paise <> CASE WHEN invoice.inter_state THEN round(base.taxed / 100000) ELSE 0 END
    OR item.cgst_paise <> CASE WHEN invoice.inter_state THEN 0 ELSE round(base.taxed / 200000) END
    OR item.sgst_paise <> item.cgst_paise
"""


async def _tax_recomputes(_: Databases, connection: asyncpg.Connection, rows: Sequence[Row], __: float) -> list[str]:
    """Goods taxed on their retail price (RULES G35) say so only in the document: there the core's figures stand."""
    found = await connection.fetch(TAX_DIFFERS, [r["merchant_id"] for r in rows], [r["invoice_id"] for r in rows])
    faults = []
    for row in found:
        lines = api.Invoice.FromString(row["document"]).lines
        line = lines[row["line"] - 1] if row["line"] <= len(lines) else None
        if line is None or not line.HasField("rsp_paise"):
            faults.append(f"invoice {to_text(row['invoice_id'])} line {row['line']}: its tax does not recompute")
    return faults


TAX_RECOMPUTES = Compare(
    Scan("invoice", "invoice", INVOICE, columns="merchant_id, invoice_id"),
    _tax_recomputes,
    {"invoice": (TAX_DIFFERS,)},
)

# ---- I12
VERSIONS = sql(
    "invoice",
    "invoice",
    INVOICE,
    """CASE WHEN entry.count <> subject.version OR entry.highest <> subject.version OR entry.lowest IS DISTINCT FROM 1
        THEN format('invoice %s: version %s, %s audit entries from %s to %s',
            subject.invoice_id, subject.version, entry.count, entry.lowest, entry.highest) END""",
    columns="merchant_id, invoice_id, version",
    joins="""CROSS JOIN LATERAL (
        SELECT count(*) AS count, min(version) AS lowest, max(version) AS highest FROM audit_entry
        WHERE audit_entry.merchant_id = subject.merchant_id AND audit_entry.invoice_id = subject.invoice_id
    ) AS entry""",
)

OUTBOX_VERSIONS = sql(
    "invoice",
    "outbox",
    {"merchant_id": "uuid", "event_id": "uuid"},
    """CASE WHEN NOT EXISTS (
            SELECT FROM invoice
            WHERE invoice.merchant_id = subject.merchant_id AND invoice.invoice_id = subject.aggregate_id
                AND subject.version BETWEEN 1 AND invoice.version
        ) THEN format('event %s: version %s of %s is no version of an invoice',
            subject.event_id, subject.version, subject.aggregate_id) END""",
    columns="merchant_id, event_id, aggregate_id, version",
)

# ---- I13
ENTRIES = f"""
SELECT entry.* FROM unnest($1::uuid[], $2::uuid[]) AS asked (merchant_id, invoice_id)
{by_key("audit_entry", "entry", *INVOICE)}
ORDER BY entry.merchant_id, entry.invoice_id, entry.version
"""
LINES = f"""
SELECT item.merchant_id, item.invoice_id, {", ".join(f"item.{name}" for name in ITEM_COLUMNS)}
FROM unnest($1::uuid[], $2::uuid[]) AS asked (merchant_id, invoice_id)
{by_key("invoice_item", "item", *INVOICE)}
ORDER BY item.merchant_id, item.invoice_id, item.line
"""


async def _chains_hold(
    databases: Databases, connection: asyncpg.Connection, rows: Sequence[Row], _: float
) -> list[str]:
    """As `invochain audit show`, a page of invoices at a time: chain, MACs, and the business rows against them."""
    key = secrets.load(databases.settings.secrets_dir).audit_mac_key
    ids = [r["merchant_id"] for r in rows], [r["invoice_id"] for r in rows]
    entries: dict[tuple[bytes, bytes], list[Row]] = defaultdict(list)
    for entry in await connection.fetch(ENTRIES, *ids):
        entries[entry["merchant_id"], entry["invoice_id"]].append(entry)
    lines: dict[tuple[bytes, bytes], list[Row]] = defaultdict(list)
    for line in await connection.fetch(LINES, *ids):
        lines[line["merchant_id"], line["invoice_id"]].append(line)
    faults = []
    for row in rows:
        chain = entries[row["merchant_id"], row["invoice_id"]]
        wrong = core.verify_audit(row["merchant_id"], row["invoice_id"], [_link(one, row) for one in chain], key)
        if wrong:
            fault = f"entry {wrong[0] + 1}: {wrong[1]}"
        elif not chain or chain[-1]["hash"] != row["audit_head"]:
            fault = "its row does not stand where its newest entry left it"
        elif differing := differing_fields(row, chain[-1]["payload"]):
            fault = f"its row says another {differing} than its entries"
        elif differing := differing_line(
            api.Invoice.FromString(row["document"]), lines[row["merchant_id"], row["invoice_id"]]
        ):
            fault = f"its lines say another {differing} than its entries"
        else:
            continue
        faults.append(f"invoice {to_text(row['invoice_id'])}: {fault}")
    return faults


def _link(entry: Row, invoice: Row) -> tuple[int, str, bytes, bytes, int, bytes, bytes, bytes, bytes, bytes]:
    return (
        *(entry["version"], entry["action"], entry["actor_id"], entry["actor_merchant_id"], entry["time_micros"]),
        *(entry["salt"], invoice["document"] if entry["payload"] is None else entry["payload"]),
        *(entry["previous"], entry["hash"], entry["mac"]),
    )


CHAINS_HOLD = Compare(
    Scan(
        "invoice",
        "invoice",
        INVOICE,
        columns=", ".join(COLUMNS),
        # Documents of a thousand lines are large.
        limit=200,
    ),
    _chains_hold,
    {"invoice": (ENTRIES, LINES)},
)

# ---- I18
_OF_INVOICE = """CASE WHEN NOT EXISTS (
        SELECT FROM invoice
        WHERE invoice.merchant_id = subject.merchant_id AND invoice.invoice_id = subject.invoice_id
    ) THEN format('{what} of invoice %s: that merchant has no such invoice', subject.invoice_id) END"""
ITEMS_OWNED = sql(
    "invoice",
    "invoice_item",
    ITEM,
    _OF_INVOICE.format(what="a line"),
    columns="merchant_id, invoice_id, line",
)
ENTRIES_OWNED = sql(
    "invoice",
    "audit_entry",
    ENTRY,
    _OF_INVOICE.format(what="an audit entry"),
    columns="merchant_id, invoice_id, version",
)
PARTIES_OWN = sql(
    "invoice",
    "invoice",
    INVOICE,
    """CASE WHEN seller.gstin <> subject.seller_gstin
        THEN format('invoice %s: its owner is another merchant than its seller', subject.invoice_id)
        WHEN buyer.gstin <> subject.buyer_gstin
        THEN format('invoice %s: it is shown to another merchant than its buyer', subject.invoice_id) END""",
    columns="merchant_id, invoice_id, seller_gstin, buyer_gstin, buyer_merchant_id",
    joins="""LEFT JOIN party AS seller ON seller.merchant_id = subject.merchant_id
        LEFT JOIN party AS buyer ON buyer.merchant_id = subject.buyer_merchant_id""",
)

# ---- I20
_DOCUMENT_MAX = 9_999_999_999_999_999
_POSITIVE = ("taxable_paise", "igst_paise", "cgst_paise", "sgst_paise", "cess_paise", "state_cess_paise", "total_paise")
INVOICE_BOUNDS = sql(
    "invoice",
    "invoice",
    INVOICE,
    f"""CASE WHEN NOT ({" AND ".join(f"subject.{n} BETWEEN 0 AND {_DOCUMENT_MAX}" for n in _POSITIVE)})
        THEN format('invoice %s: an amount is out of bounds', subject.invoice_id) END""",
    columns=f"merchant_id, invoice_id, {', '.join(_POSITIVE)}",
)
ITEM_BOUNDS = sql(
    "invoice",
    "invoice_item",
    ITEM,
    f"""CASE WHEN NOT ({" AND ".join(f"subject.{n} BETWEEN 0 AND {_DOCUMENT_MAX}" for n in _POSITIVE)})
            OR subject.quantity_milli NOT BETWEEN 1 AND 9999999999999 OR subject.gst_rate_milli NOT BETWEEN 0 AND 100000
        THEN format('invoice %s line %s: a figure is out of bounds', subject.invoice_id, subject.line) END""",
    columns=f"merchant_id, invoice_id, line, quantity_milli, gst_rate_milli, {', '.join(_POSITIVE)}",
)
