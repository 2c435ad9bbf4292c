"""Do the books balance? Simple SQL over both databases, compared row by row for one seller (PROTOCOL 15)."""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping

from invochain import core
from tests.chaos.load import ClientLog
from tests.kit.market import Market, Trader

# What an invoice's hold is, by the invoice's state (I5).
HOLD_OF = {"ISSUED": "HELD", "ACCEPTED": "COMMITTED", "REJECTED": "REVERSED", "CANCELLED": "REVERSED"}

STOCK = """
SELECT stock.sku, on_hand_milli, reserved_milli,
  (SELECT coalesce(sum(delta_milli), 0) FROM movement
   WHERE movement.merchant_id = stock.merchant_id AND movement.sku = stock.sku)::bigint AS moved,
  (SELECT coalesce(sum(held.quantity), 0)
   FROM reservation, unnest(reservation.skus, reservation.quantities_milli) AS held (sku, quantity)
   WHERE reservation.merchant_id = stock.merchant_id AND held.sku = stock.sku
     AND reservation.state IN ('PENDING', 'HELD'))::bigint AS held
FROM stock WHERE merchant_id = $1::text::uuid
"""
HOLDS = """
SELECT rid, attempt, state, skus, quantities_milli FROM reservation
WHERE merchant_id = $1::text::uuid AND resolver = 'INVOICE' AND state <> 'RELEASED'
"""
INVOICES = """
SELECT rid, attempt, invoice_id, state, version,
  (SELECT count(*) FROM audit_entry WHERE audit_entry.merchant_id = invoice.merchant_id
     AND audit_entry.invoice_id = invoice.invoice_id) AS audited,
  (SELECT array_agg(sku || ' ' || quantity ORDER BY sku) FROM (
     SELECT sku, sum(quantity_milli)::bigint AS quantity FROM invoice_item
     WHERE invoice_item.merchant_id = invoice.merchant_id AND invoice_item.invoice_id = invoice.invoice_id
       AND sku IS NOT NULL GROUP BY sku) AS line) AS lines
FROM invoice WHERE merchant_id = $1::text::uuid
"""
DECISIONS = "SELECT rid, state FROM decision WHERE merchant_id = $1::text::uuid AND operation = 'invoice.create'"
SERIES_WITH_GAPS = """
SELECT prefix FROM number_series WHERE merchant_id = $1::text::uuid AND last_given <> (
  SELECT count(*) FROM invoice WHERE invoice.merchant_id = number_series.merchant_id
    AND starts_with(invoice.number_key, number_series.prefix))
"""
# Each event of an invoice once, where it came first. The seventh header is ce_sequence (workers/relay.py).
FIRST_PUBLISHED = """
SELECT invoice_id, array_agg(sequence ORDER BY log_offset) AS sequences FROM (
  SELECT convert_from(key, 'UTF8') AS invoice_id, (headers -> 6 ->> 1)::int AS sequence, min(log_offset) AS log_offset
  FROM log_record WHERE topic = 'invoice.events' GROUP BY 1, 2) AS event
GROUP BY invoice_id
"""
# Of all merchants: the oldest hold that still waits for a decision.
PENDING = """
SELECT count(*) AS holds FROM reservation
WHERE resolver = 'INVOICE' AND state = 'PENDING' AND create_time <= $1::text::timestamptz
"""


async def now(market: Market) -> str:
    """The inventory database's clock, which dates its holds."""
    (row,) = await market.sql("inventory", "SELECT clock_timestamp()::text AS now")
    return row["now"]


async def pending(market: Market, until: str) -> int:
    """Holds that wait for a decision, made before a time."""
    (row,) = await market.sql("inventory", PENDING, until)
    return row["holds"]


async def pending_by_row(market: Market, seller: Trader) -> dict[str, set[uuid.UUID]]:
    """Requests whose hold waits for a decision, by the state of their decision row; without a row: UNDECIDED."""
    me = seller.merchant.merchant_id
    decisions = {row["rid"]: row["state"] for row in await market.sql("invoice", DECISIONS, me)}
    found: dict[str, set[uuid.UUID]] = defaultdict(set)
    for hold in await market.sql("inventory", HOLDS, me):
        if hold["state"] == "PENDING":
            found[decisions.get(hold["rid"], "UNDECIDED")].add(hold["rid"])
    return found


def rid_of(seller: Trader, key: str) -> uuid.UUID:
    """The id of a creation asked for with a key."""
    return uuid.UUID(bytes=core.request_id(seller.merchant_id, "invoice.create", key))


async def unpublished(market: Market) -> int:
    (row,) = await market.sql("invoice", "SELECT count(*) AS events FROM outbox")
    return row["events"]


async def discrepancies(market: Market, seller: Trader, buyer: Trader, log: ClientLog) -> dict[str, list[str]]:
    """What does not balance, by name; empty when all is well."""
    me = seller.merchant.merchant_id
    stock = await market.sql("inventory", STOCK, me)
    holds = await market.sql("inventory", HOLDS, me)
    invoices = await market.sql("invoice", INVOICES, me)
    decisions = {row["rid"]: row["state"] for row in await market.sql("invoice", DECISIONS, me)}
    found: dict[str, list[str]] = {
        "I1 on hand is the sum of movements": [r["sku"] for r in stock if r["on_hand_milli"] != r["moved"]],
        "I2 reserved is the sum of holds": [r["sku"] for r in stock if r["reserved_milli"] != r["held"]],
        "I7 nothing is pending": [str(h["rid"]) for h in holds if h["state"] == "PENDING"],
        "I9 series without gaps": [r["prefix"] for r in await market.sql("invoice", SERIES_WITH_GAPS, me)],
        "I12 version counts audit entries": [str(i["rid"]) for i in invoices if i["version"] != i["audited"]],
        "I16 the buyer got what the seller sold": await _sold_not_received(market, me, buyer.merchant.merchant_id),
        "unpublished events": ["outbox"] * await unpublished(market),
    }
    of_rid = {row["rid"]: row for row in invoices}
    found["duplicates"] = [str(rid) for rid, n in Counter(row["rid"] for row in invoices).items() if n > 1]
    found["I4 one lasting hold a request"] = [
        str(rid) for rid, n in Counter(hold["rid"] for hold in holds).items() if n > 1
    ]
    found["orphans"] = [f"{h['rid']} {h['state']}" for h in holds if h["rid"] not in of_rid]
    found["I8 row and invoice agree"] = [
        f"{rid} {decisions.get(rid)}"
        for rid in decisions.keys() | of_rid.keys()
        if (decisions.get(rid) == "SUCCEEDED") != (rid in of_rid)
    ]
    found["I5 the hold of each invoice"] = _wrong_holds(invoices, holds)
    found |= _history(seller, of_rid, {hold["rid"] for hold in holds}, log)
    return {name: wrong for name, wrong in found.items() if wrong}


async def moves_untrue(market: Market, seller: Trader, told: Mapping[str, set[str]]) -> list[str]:
    """I17 of moves: an invoice is in the one state that a client was told it was moved to, or was never moved."""
    rows = await market.sql("invoice", INVOICES, seller.merchant.merchant_id)
    return [
        f"{row['invoice_id']} is {row['state']}, told {sorted(told.get(str(row['invoice_id']), ()))}"
        for row in rows
        if {row["state"]} != (told.get(str(row["invoice_id"])) or {"ISSUED"})
    ]


async def backlog(market: Market) -> int:
    """The newest unpublished event of the invoice service: all up to it are the backlog of this moment."""
    (row,) = await market.sql("invoice", "SELECT coalesce(max(seq), 0)::bigint AS newest FROM outbox")
    return row["newest"]


async def unpublished_up_to(market: Market, seq: int) -> int:
    (row,) = await market.sql("invoice", "SELECT count(*) AS events FROM outbox WHERE seq <= $1", seq)
    return row["events"]


async def events_wrong(market: Market, seller: Trader) -> list[str]:
    """PROTOCOL 10: of each invoice, every version was published, and none before an earlier one."""
    versions = {
        str(row["invoice_id"]): row["version"]
        for row in await market.sql("invoice", INVOICES, seller.merchant.merchant_id)
    }
    published = {row["invoice_id"]: list(row["sequences"]) for row in await market.sql("broker", FIRST_PUBLISHED)}
    return [
        f"{invoice_id}: version {version}, published {published.get(invoice_id)}"
        for invoice_id, version in versions.items()
        if published.get(invoice_id) != list(range(1, version + 1))
    ]


def _wrong_holds(invoices: list, holds: list) -> list[str]:
    by_rid = {hold["rid"]: hold for hold in holds}
    wrong = []
    for invoice in invoices:
        hold = by_rid.get(invoice["rid"])
        if invoice["lines"] is None:
            if hold is not None:
                wrong.append(f"{invoice['rid']} holds stock for no line")
            continue
        wanted = (invoice["attempt"], HOLD_OF[invoice["state"]], invoice["lines"])
        there = None
        if hold is not None:
            pairs = zip(hold["skus"], hold["quantities_milli"], strict=True)
            there = (hold["attempt"], hold["state"], sorted(f"{sku} {quantity}" for sku, quantity in pairs))
        if there != wanted:
            wrong.append(f"{invoice['rid']} wants {wanted}, there is {there}")
    return wrong


def _history(seller: Trader, of_rid: dict, held: set, log: ClientLog) -> dict[str, list[str]]:
    """I17: acknowledged is found, once; refused left nothing; nothing is there that nobody was told."""
    issued = {rid_of(seller, key): invoice_id for key, invoice_id in log.acknowledged.items()}
    asked = {rid_of(seller, key) for key, _ in log.final}
    return {
        "I17 one answer a key": log.disagreements(),
        "lost": [f"{r} {i}" for r, i in issued.items() if r not in of_rid or str(of_rid[r]["invoice_id"]) != i],
        "refused, and left a trace": [str(r) for r in asked - issued.keys() if r in of_rid or r in held],
        "issued to nobody": [str(r) for r in of_rid.keys() - issued.keys()],
    }


async def _sold_not_received(market: Market, seller: str, buyer: str) -> list[str]:
    totals = (
        "SELECT sku, sum(delta_milli)::bigint AS units FROM movement WHERE merchant_id = $1::text::uuid AND kind = $2"
    )
    sold = {
        row["sku"]: -row["units"] for row in await market.sql("inventory", f"{totals} GROUP BY sku", seller, "SALE")
    }
    got = {
        row["sku"]: row["units"] for row in await market.sql("inventory", f"{totals} GROUP BY sku", buyer, "PURCHASE")
    }
    return [
        f"{sku}: sold {sold.get(sku)}, got {got.get(sku)}"
        for sku in sorted(sold.keys() | got.keys())
        if sold.get(sku) != got.get(sku)
    ]
