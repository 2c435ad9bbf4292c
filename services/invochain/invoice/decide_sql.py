"""The statements of DECIDE. Each names merchant_id, takes columns, and sorts by the key it locks (PROTOCOL 9, 17)."""

from __future__ import annotations

from invochain.chassis.postgres import Sql
from invochain.durable import outbox

# The first statement takes the advisory locks too (shared; see decide.py). Won rows are written as SUCCEEDED at once:
# nobody sees them before COMMIT, and only what is refused later in the transaction is written again.
CLAIM = Sql(
    "decide_claim",
    """
WITH names AS MATERIALIZED (
    SELECT count(pg_advisory_xact_lock_shared(name.space, name.bucket)) AS locked
    FROM unnest($9::int[], $10::int[]) AS name (space, bucket)
), today AS MATERIALIZED (
    SELECT (now() AT TIME ZONE 'Asia/Kolkata')::date - DATE '1970-01-01' AS day
)
INSERT INTO decision (merchant_id, rid, operation, state, attempt, fingerprint, fp_version)
SELECT asked.merchant_id, asked.rid, $7, 'SUCCEEDED', 1, asked.fingerprint, $8
FROM names, today,
    unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bytea[], $5::int[], $6::int[])
    AS asked (merchant_id, rid, invoice_id, fingerprint, day, given_day)
WHERE (asked.given_day >= 0 OR asked.day = today.day)
    AND NOT EXISTS (
        SELECT FROM invoice
        WHERE invoice.merchant_id = asked.merchant_id AND invoice.invoice_id = asked.invoice_id
    )
ORDER BY asked.merchant_id, asked.rid
ON CONFLICT DO NOTHING
RETURNING rid
""",
)

# Takes the same advisory locks: a later attempt writes an invoice like a first one.
CLAIM_AGAIN = Sql(
    "decide_claim_again",
    """
WITH names AS MATERIALIZED (
    SELECT count(pg_advisory_xact_lock_shared(name.space, name.bucket)) AS locked
    FROM unnest($6::int[], $7::int[]) AS name (space, bucket)
)
SELECT decision.rid
FROM names, decision
JOIN unnest($1::uuid[], $2::uuid[], $3::int[], $4::int[], $5::int[])
    AS asked (merchant_id, rid, attempt, day, given_day)
    ON decision.merchant_id = asked.merchant_id AND decision.rid = asked.rid
WHERE decision.state = 'OPEN'
    AND decision.attempt = asked.attempt
    AND (asked.given_day >= 0 OR asked.day = (now() AT TIME ZONE 'Asia/Kolkata')::date - DATE '1970-01-01')
ORDER BY decision.merchant_id, decision.rid
FOR UPDATE OF decision
""",
)

# A statement of its own: the claim's snapshot cannot see the rival it waited for (PROTOCOL 3c).
STANDINGS = Sql(
    "decide_standings",
    """
SELECT asked.rid,
    (now() AT TIME ZONE 'Asia/Kolkata')::date - DATE '1970-01-01' AS day,
    decision.state, decision.attempt, decision.fingerprint, decision.answer,
    invoice.attempt AS invoice_attempt, invoice.fingerprint AS invoice_fingerprint, invoice.document
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS asked (merchant_id, rid, invoice_id)
LEFT JOIN decision ON decision.merchant_id = asked.merchant_id AND decision.rid = asked.rid
LEFT JOIN invoice ON invoice.merchant_id = asked.merchant_id AND invoice.invoice_id = asked.invoice_id
""",
)

REOPEN = Sql(
    "decide_reopen",
    """
UPDATE decision SET state = 'OPEN', attempt = aborted.attempt + 1, update_time = now()
FROM (
    SELECT decision.merchant_id, decision.rid, decision.attempt
    FROM decision
    JOIN unnest($1::uuid[], $2::uuid[], $3::int[]) AS asked (merchant_id, rid, attempt)
        ON decision.merchant_id = asked.merchant_id AND decision.rid = asked.rid
    WHERE decision.state = 'ABORTED' AND decision.attempt = asked.attempt
    ORDER BY decision.merchant_id, decision.rid
    FOR UPDATE OF decision
) AS aborted
WHERE decision.merchant_id = aborted.merchant_id AND decision.rid = aborted.rid
    AND decision.state = 'ABORTED' AND decision.attempt = aborted.attempt
RETURNING decision.rid, decision.attempt
""",
)

# A refusal known before DECIDE (attempt 1), or a tombstone: inserted, because the insert waits for a rival (R2).
INSERT_NEGATIVE = Sql(
    "decide_insert_negative",
    """
INSERT INTO decision (merchant_id, rid, operation, state, attempt, fingerprint, fp_version, reason, answer)
SELECT asked.merchant_id, asked.rid, $8, asked.state, asked.attempt, asked.fingerprint, $9, asked.reason, asked.answer
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::int[], $6::bytea[], $7::text[], $10::bytea[])
    AS asked (merchant_id, rid, invoice_id, state, attempt, fingerprint, reason, answer)
WHERE NOT EXISTS (
    SELECT FROM invoice
    WHERE invoice.merchant_id = asked.merchant_id AND invoice.invoice_id = asked.invoice_id
)
ORDER BY asked.merchant_id, asked.rid
ON CONFLICT DO NOTHING
RETURNING rid
""",
)

# OPEN(n) ends: SUCCEEDED, FAILED or ABORTED.
CLOSE = Sql(
    "decide_close",
    """
UPDATE decision
SET state = open.new_state, reason = open.reason, answer = open.answer, update_time = now()
FROM (
    SELECT decision.merchant_id, decision.rid, asked.new_state, asked.attempt, asked.reason, asked.answer
    FROM decision
    JOIN unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::text[], $6::bytea[])
        AS asked (merchant_id, rid, attempt, new_state, reason, answer)
        ON decision.merchant_id = asked.merchant_id AND decision.rid = asked.rid
    WHERE decision.state = 'OPEN' AND decision.attempt = asked.attempt
    ORDER BY decision.merchant_id, decision.rid
    FOR UPDATE OF decision
) AS open
WHERE decision.merchant_id = open.merchant_id AND decision.rid = open.rid
    AND decision.state = 'OPEN' AND decision.attempt = open.attempt
RETURNING decision.rid
""",
)

# Refused inside DECIDE: the row this transaction itself has just written.
REFUSE_CLAIMED = Sql(
    "decide_refuse_claimed",
    """
UPDATE decision
SET state = 'FAILED', reason = refused.reason, answer = refused.answer, update_time = now()
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[]) AS refused (merchant_id, rid, reason, answer)
WHERE decision.merchant_id = refused.merchant_id AND decision.rid = refused.rid
""",
)

# Exclusive: waits until every transaction that might be writing a client's number has ended, so the look is true.
MAKE_SERIES = Sql(
    "series_make",
    """
INSERT INTO number_series (merchant_id, seller_gstin, doc_type, financial_year, prefix)
SELECT DISTINCT asked.merchant_id, asked.seller_gstin, $5, asked.financial_year, asked.prefix
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[])
    AS asked (merchant_id, seller_gstin, financial_year, prefix)
WHERE NOT EXISTS (
    SELECT FROM invoice
    WHERE invoice.merchant_id = asked.merchant_id
        AND invoice.seller_gstin = asked.seller_gstin
        AND invoice.doc_type = $5
        AND invoice.financial_year = asked.financial_year
        AND starts_with(invoice.number_key, asked.prefix)
)
ORDER BY 1, 2, 4, 5
ON CONFLICT DO NOTHING
""",
)

# Of series that are not made yet: those whose prefix the merchant's own numbers use, which they never cease to do.
PREFIXES_USED = Sql(
    "series_prefixes_used",
    """
SELECT asked.merchant_id, asked.seller_gstin, asked.financial_year, asked.prefix
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[])
    AS asked (merchant_id, seller_gstin, financial_year, prefix)
WHERE EXISTS (
    SELECT FROM invoice
    WHERE invoice.merchant_id = asked.merchant_id
        AND invoice.seller_gstin = asked.seller_gstin
        AND invoice.doc_type = $5
        AND invoice.financial_year = asked.financial_year
        AND starts_with(invoice.number_key, asked.prefix)
)
""",
)

# The names of its items that nobody else holds.
LOCK_FREE_NAMES_ALONE = Sql(
    "series_lock_free_names",
    """
SELECT name.bucket
FROM unnest($1::int[], $2::int[]) AS name (space, bucket)
WHERE pg_try_advisory_xact_lock(name.space, name.bucket)
""",
)

# For the rest of the transaction.
WAIT_SHORTLY = Sql("wait_shortly", "SELECT set_config('lock_timeout', $1, true)")

LOCK_NAMES_ALONE = Sql(
    "series_lock_names",
    """
SELECT count(pg_advisory_xact_lock(name.space, name.bucket))
FROM unnest($1::int[], $2::int[]) AS name (space, bucket)
""",
)

_SERIES = """
SELECT number_series.merchant_id, number_series.seller_gstin, number_series.financial_year, number_series.prefix,
    number_series.last_given
FROM number_series
JOIN unnest($1::uuid[], $2::text[], $3::text[], $4::text[])
    AS asked (merchant_id, seller_gstin, financial_year, prefix)
    ON number_series.merchant_id = asked.merchant_id
    AND number_series.seller_gstin = asked.seller_gstin
    AND number_series.doc_type = $5
    AND number_series.financial_year = asked.financial_year
    AND number_series.prefix = asked.prefix
"""
_SERIES_ORDER = """
ORDER BY number_series.merchant_id, number_series.seller_gstin, number_series.financial_year, number_series.prefix
FOR NO KEY UPDATE OF number_series
"""

READ_SERIES = Sql("series_read", _SERIES)
LOCK_SERIES = Sql("series_lock", _SERIES + _SERIES_ORDER + "SKIP LOCKED")
LOCK_SERIES_WAITING = Sql("series_lock_waiting", _SERIES + _SERIES_ORDER)

# Once per series and batch; the rows are locked.
TAKE_NUMBERS = Sql(
    "series_take_numbers",
    """
UPDATE number_series SET last_given = number_series.last_given + asked.count
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $6::int[])
    AS asked (merchant_id, seller_gstin, financial_year, prefix, count)
WHERE number_series.merchant_id = asked.merchant_id
    AND number_series.seller_gstin = asked.seller_gstin
    AND number_series.doc_type = $5
    AND number_series.financial_year = asked.financial_year
    AND number_series.prefix = asked.prefix
RETURNING number_series.merchant_id, number_series.seller_gstin, number_series.financial_year, number_series.prefix,
    number_series.last_given - asked.count AS before
""",
)

# The rows of what is issued, in one statement: an invoice whose number was free brings its lines, its audit entry and
# its event. A number that is used, or that a client took from a server's series, gives no row. The draft is
# materialized, because it is read twice; its lines name it by place (from 0), not by two ids.
INSERT_ISSUED = Sql(
    "invoice_insert",
    f"""
WITH draft AS MATERIALIZED (
    SELECT *
    FROM unnest(
        $4::uuid[], $5::uuid[], $6::uuid[], $7::int[], $8::bytea[], $9::text[], $10::boolean[], $11::text[],
        $12::text[], $13::text[], $14::int[], $15::text[], $16::uuid[], $17::boolean[], $18::bigint[], $19::bigint[],
        $20::bigint[], $21::bigint[], $22::bigint[], $23::bigint[], $24::bigint[], $25::bigint[], $26::bigint[],
        $27::bigint[], $28::boolean[], $29::text[], $30::bytea[], $31::bytea[], $32::bytea[], $33::uuid[], $34::bytea[],
        $35::uuid[], $36::smallint[], $37::bytea[], $38::text[]
    ) WITH ORDINALITY AS draft (
        merchant_id, invoice_id, rid, attempt, fingerprint, number, by_client, seller_gstin, financial_year,
        supply_type, day, buyer_gstin, buyer_merchant_id, inter_state, taxable, igst, cgst,
        sgst, cess, state_cess, discount, other_charges, round_off, total,
        takes_stock, compliance_status, document, audit_hash, audit_mac, actor_id, salt,
        event_id, partition, event, traceparent, place
    )
), written AS (
    INSERT INTO invoice (
        merchant_id, invoice_id, rid, attempt, fingerprint, fp_version, number, number_key, doc_type, seller_gstin,
        financial_year, supply_type, invoice_date, buyer_gstin, buyer_merchant_id, inter_state, taxable_paise,
        igst_paise, cgst_paise, sgst_paise, cess_paise, state_cess_paise, discount_paise, other_charges_paise,
        round_off_paise, total_paise, takes_stock, compliance_status, document, audit_head, create_time, update_time
    )
    SELECT
        draft.merchant_id, draft.invoice_id, draft.rid, draft.attempt, draft.fingerprint, $1, draft.number,
        upper(draft.number), $2, draft.seller_gstin, draft.financial_year, draft.supply_type,
        DATE '1970-01-01' + draft.day, draft.buyer_gstin,
        coalesce(draft.buyer_merchant_id, (SELECT party.merchant_id FROM party WHERE party.gstin = draft.buyer_gstin)),
        draft.inter_state, draft.taxable, draft.igst, draft.cgst, draft.sgst, draft.cess, draft.state_cess,
        draft.discount, draft.other_charges, draft.round_off, draft.total, draft.takes_stock, draft.compliance_status,
        draft.document, draft.audit_hash, $3, $3
    FROM draft
    WHERE NOT (
        draft.by_client AND EXISTS (
            SELECT FROM number_series
            WHERE number_series.merchant_id = draft.merchant_id
                AND number_series.seller_gstin = draft.seller_gstin
                AND number_series.doc_type = $2
                AND number_series.financial_year = draft.financial_year
                AND starts_with(upper(draft.number), number_series.prefix)
        )
    )
    ORDER BY draft.merchant_id, draft.seller_gstin, draft.financial_year, upper(draft.number) COLLATE "C"
    ON CONFLICT ON CONSTRAINT invoice_number_once DO NOTHING
    RETURNING merchant_id, invoice_id
), issued AS MATERIALIZED (
    SELECT draft.*
    FROM draft
    JOIN written ON written.merchant_id = draft.merchant_id AND written.invoice_id = draft.invoice_id
), items AS (
    INSERT INTO invoice_item (
        merchant_id, invoice_id, line, sku, hsn, unit, is_service, quantity_milli, unit_price_milli, gst_rate_milli,
        gross_paise, discount_paise, taxable_paise, igst_paise, cgst_paise, sgst_paise, cess_paise, state_cess_paise,
        total_paise
    )
    SELECT
        issued.merchant_id, issued.invoice_id, item.line, item.sku, item.hsn, item.unit, item.is_service,
        item.quantity, item.unit_price, item.gst_rate, item.gross, item.discount, item.taxable, item.igst, item.cgst,
        item.sgst, item.cess, item.state_cess, item.total
    FROM unnest(
        $39::int[], $40::int[], $41::text[], $42::text[], $43::text[], $44::boolean[], $45::bigint[], $46::bigint[],
        $47::int[], $48::bigint[], $49::bigint[], $50::bigint[], $51::bigint[], $52::bigint[], $53::bigint[],
        $54::bigint[], $55::bigint[], $56::bigint[]
    ) AS item (
        place, line, sku, hsn, unit, is_service, quantity, unit_price,
        gst_rate, gross, discount, taxable, igst, cgst, sgst,
        cess, state_cess, total
    )
    JOIN issued ON issued.place = item.place + 1
), audit AS (
    INSERT INTO audit_entry (
        merchant_id, invoice_id, version, action, actor_id, actor_merchant_id, time_micros, salt, payload, previous,
        hash, mac
    )
    SELECT
        merchant_id, invoice_id, 1, 'issue', actor_id, merchant_id, $57::bigint, salt, NULL, $58::bytea, audit_hash,
        audit_mac
    FROM issued
), events AS (
    {outbox.INSERT}
    SELECT merchant_id, event_id, invoice_id, 1, partition, $59::text, event, traceparent FROM issued
)
SELECT place FROM issued
""",
)

# What a move of an invoice leaves in its chain.
INSERT_AUDIT = Sql(
    "audit_insert",
    """
INSERT INTO audit_entry (
    merchant_id, invoice_id, version, action, actor_id, actor_merchant_id, time_micros, salt, payload, previous, hash,
    mac
)
SELECT entry.merchant_id, entry.invoice_id, entry.version, entry.action, entry.actor_id, entry.actor_merchant_id, $1,
    entry.salt, entry.payload, entry.previous, entry.hash, entry.mac
FROM unnest(
    $2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::uuid[], $7::uuid[], $8::bytea[], $9::bytea[], $10::bytea[],
    $11::bytea[], $12::bytea[]
) AS entry (
    merchant_id, invoice_id, version, action, actor_id, actor_merchant_id, salt, payload, previous, hash, mac
)
""",
)
