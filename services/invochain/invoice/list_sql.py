"""The statement of ListInvoices: a walk along indexes in order of time, bounded whatever the filter.

By state, by party and by number there are indexes (migrations/0002_lists); the other conditions are looked at on the
way. So that a filter which hardly anything satisfies costs no more than any other, a page ends after `WALKED_MAX` rows:
it may hold fewer invoices than were asked for, even none, and its token goes on from there.

A parameter says how each side is walked: '' (not at all), 'states', 'party' or 'number'. The plan is made for the
values (`plan_cache_mode`), so branches that are not walked are not in it.
"""

from __future__ import annotations

from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.chassis.postgres import Sql

# Rows a page looks at, at most: some milliseconds, and more than the largest page.
WALKED_MAX = 2_000

COLUMNS = """invoice.merchant_id, invoice.invoice_id, invoice.buyer_merchant_id, invoice.state, invoice.version,
    invoice.reason, invoice.document, invoice.create_time, invoice.update_time"""

_SEEN = """invoice.number_key, invoice.buyer_gstin, invoice.seller_gstin, invoice.supply_type, invoice.doc_type,
    invoice.financial_year, invoice.invoice_date, invoice.total_paise"""

_WANTED = """
    $1 IN (merchant_id, buyer_merchant_id)
    AND ($7::text IS NULL OR state = $7)
    AND ($8::text IS NULL OR number_key = $8)
    AND ($9::text IS NULL OR buyer_gstin = $9)
    AND ($10::text IS NULL OR seller_gstin = $10)
    AND ($11::text IS NULL OR supply_type = $11)
    AND ($12::text IS NULL OR doc_type = $12)
    AND ($13::text IS NULL OR financial_year = $13)
    AND ($14::date IS NULL OR invoice_date >= $14)
    AND ($15::date IS NULL OR invoice_date <= $15)
    AND ($16::bigint IS NULL OR total_paise >= $16)
    AND ($17::bigint IS NULL OR total_paise <= $17)"""

_STATES = [name for name, number in api.InvoiceState.items() if number]
# The kinds of document and the years that a seller has: a few, each found by one look at the index of numbers, whose
# next column is the number.
_KINDS = """
WITH RECURSIVE kind (doc_type, financial_year) AS (
    (
        SELECT doc_type, financial_year FROM invoice WHERE merchant_id = $1 AND seller_gstin = $18
        ORDER BY doc_type, financial_year LIMIT 1
    )
    UNION ALL
    SELECT next.doc_type, next.financial_year
    FROM kind
    CROSS JOIN LATERAL (
        SELECT invoice.doc_type, invoice.financial_year FROM invoice
        WHERE invoice.merchant_id = $1 AND invoice.seller_gstin = $18
            AND (invoice.doc_type, invoice.financial_year) > (kind.doc_type, kind.financial_year)
        ORDER BY invoice.doc_type, invoice.financial_year LIMIT 1
    ) AS next
)"""
# What was bought, and not shown as sold already.
_BOUGHT = "invoice.buyer_merchant_id = $1 AND (invoice.merchant_id <> $1 OR $5 = '')"
_WALKS = [
    *(
        f"""$5 = 'states' AND ($7::text IS NULL OR $7 = '{state}')
        AND invoice.merchant_id = $1 AND invoice.state = '{state}'"""
        for state in _STATES
    ),
    # A GSTIN is one merchant's for ever. Naming both would mislead the planner: it takes them for independent.
    "$5 = 'party' AND invoice.seller_gstin = $18 AND invoice.buyer_gstin = $9",
    """$5 = 'number' AND invoice.merchant_id = $1 AND invoice.seller_gstin = $18 AND invoice.number_key = $8
        AND (invoice.doc_type, invoice.financial_year) IN (SELECT doc_type, financial_year FROM kind)""",
    *(
        f"""$6 = 'states' AND ($7::text IS NULL OR $7 = '{state}') AND {_BOUGHT} AND invoice.state = '{state}'"""
        for state in _STATES
    ),
    "$6 = 'party' AND invoice.seller_gstin = $10 AND invoice.buyer_gstin = $18 AND ($5 = '' OR $10 <> $18)",
    f"$6 = 'number' AND {_BOUGHT} AND invoice.number_key = $8",
]


def _list(name: str, than: str, order: str) -> Sql:
    """Rows that are wanted, in order; and the last row walked, wanted or not, where the walk was cut off."""
    in_order = f"ORDER BY create_time {order}, invoice_id {order}"
    walks = "\nUNION ALL\n".join(
        f"""(SELECT {COLUMNS}, {_SEEN} FROM invoice
        WHERE {walk} AND (invoice.create_time, invoice.invoice_id) {than} ($2, $3)
        {in_order} LIMIT $4)"""
        for walk in _WALKS
    )
    return Sql(
        name,
        f"""{_KINDS}
SELECT * FROM (
    SELECT walked.*, ({_WANTED}) AS wanted, row_number() OVER ({in_order}) AS place
    FROM (SELECT * FROM ({walks}) AS sides {in_order} LIMIT $4) AS walked
) AS seen
WHERE wanted OR place = $4
{in_order}
LIMIT $19
""",
    )


LIST_NEWEST_FIRST = _list("invoice_list_newest_first", "<", "DESC")
LIST_OLDEST_FIRST = _list("invoice_list_oldest_first", ">", "ASC")
