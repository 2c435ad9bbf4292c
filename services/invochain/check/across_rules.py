"""What must hold between databases: I5, I6, I15, I16, and the broker's part of I12; and how columns are typed (I20).

No snapshot spans two databases. So the side that is written first is read last, or what seemed wrong is looked at once
more: a fault counts only if its invoice did not change while the other side was read.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import asyncpg

from invochain import core
from invochain.chassis.ids import Id, from_text, to_text
from invochain.check.invoice_rules import INVOICE, INVOICE_BY_KEY
from invochain.check.rule import Compare, Page, Row, Scan, by_key, sql
from invochain.check.snapshot import Databases
from invochain.check.stock_rules import HOLD_BY_KEY, MOVEMENT, RESERVATION
from invochain.inventory.on_invoice_events import RECEIVE, SETTLE
from invochain.inventory.receive_goods import names
from invochain.invoice.invoice import ACCEPT, CANCEL, REJECT
from invochain.invoice.on_merchant_events import CHANGED, PARTIES

ITEMS = f"""
SELECT item.merchant_id, item.invoice_id, upper(item.sku) AS sku, item.unit, item.quantity_milli
FROM unnest($1::uuid[], $2::uuid[]) AS asked (merchant_id, invoice_id)
{by_key("invoice_item", "item", *INVOICE, where="invoice_item.sku IS NOT NULL")}
"""
STILL = f"""
SELECT invoice.merchant_id, invoice.invoice_id, invoice.version
FROM unnest($1::uuid[], $2::uuid[]) AS asked (merchant_id, invoice_id)
{INVOICE_BY_KEY}
"""
# Until when something that changed may not have arrived on the other side.
SETTLED = "update_time <= now() - make_interval(secs => $2)"


async def _unchanged(databases: Databases, suspects: Sequence[tuple[Row, str]]) -> list[str]:
    """The faults of invoices that are now as they were when their page was read."""
    if not suspects:
        return []
    rows = [row for row, _ in suspects]
    async with databases.snapshot("invoice") as connection:
        now = await connection.fetch(STILL, [r["merchant_id"] for r in rows], [r["invoice_id"] for r in rows])
    versions = {(row["merchant_id"], row["invoice_id"]): row["version"] for row in now}
    return [fault for row, fault in suspects if versions.get((row["merchant_id"], row["invoice_id"])) == row["version"]]


async def _items(connection: asyncpg.Connection, rows: Sequence[Row]) -> dict[tuple[Id, Id], list[Row]]:
    found: dict[tuple[Id, Id], list[Row]] = defaultdict(list)
    for item in await connection.fetch(ITEMS, [r["merchant_id"] for r in rows], [r["invoice_id"] for r in rows]):
        found[item["merchant_id"], item["invoice_id"]].append(item)
    return found


# ---- I5
HOLDS = f"""
SELECT hold.merchant_id, hold.reservation_id, hold.state, hold.fingerprint, hold.skus, hold.quantities_milli
FROM unnest($1::uuid[], $2::uuid[]) AS asked (merchant_id, reservation_id)
{HOLD_BY_KEY}
"""
WANTED = {"REJECTED": "REVERSED", "CANCELLED": "REVERSED", "ISSUED": "HELD", "EDIT_REQUESTED": "HELD"}


async def _has_its_stock(
    databases: Databases, connection: asyncpg.Connection, rows: Sequence[Row], _: float
) -> list[str]:
    """One lasting hold, with the invoice's lines, in the state that follows from the invoice's. Every other attempt up
    to the one after is released or was never made."""
    items = await _items(connection, rows)
    asked = [
        (row["merchant_id"], core.reservation_id(row["rid"], attempt))
        for row in rows
        for attempt in range(1, row["attempt"] + 2)
    ]
    async with databases.snapshot("inventory") as inventory:
        found = await inventory.fetch(HOLDS, [m for m, _ in asked], [r for _, r in asked])
    holds = {(hold["merchant_id"], hold["reservation_id"]): hold for hold in found}
    suspects = []
    for row in rows:
        lines: dict[str, int] = defaultdict(int)
        for item in items[row["merchant_id"], row["invoice_id"]]:
            lines[item["sku"]] += item["quantity_milli"]
        if fault := _hold_fault(row, lines, holds):
            suspects.append((row, f"invoice {to_text(row['invoice_id'])}, {row['state']}: {fault}"))
    return await _unchanged(databases, suspects)


def _hold_fault(row: Row, lines: Mapping[str, int], holds: Mapping[tuple[Id, Id], Row]) -> str:
    for attempt in range(1, row["attempt"] + 2):
        hold = holds.get((row["merchant_id"], core.reservation_id(row["rid"], attempt)))
        if attempt != row["attempt"]:
            if hold is not None and hold["state"] != "RELEASED":
                return f"attempt {attempt} has a hold too, {hold['state']}"
        elif hold is None:
            return "it has no hold"
        elif hold["state"] != (wanted := WANTED.get(row["state"], "COMMITTED")):
            return f"its hold is {hold['state']}, not {wanted}"
        elif hold["fingerprint"] != row["fingerprint"]:
            return "its hold was made for another body"
        elif dict(zip(hold["skus"], hold["quantities_milli"], strict=True)) != lines:
            return "its hold has other lines"
    return ""


HAS_ITS_STOCK = Compare(
    Scan(
        "invoice",
        "invoice",
        INVOICE,
        columns="merchant_id, invoice_id, rid, attempt, fingerprint, state, version",
        where=f"takes_stock AND {SETTLED}",
    ),
    _has_its_stock,
    {"invoice": (ITEMS, STILL), "inventory": (HOLDS,)},
)

# ---- I6: the invoice commits first and is never deleted, so it is read last.
INVOICES = f"""
SELECT invoice.merchant_id, invoice.invoice_id, invoice.attempt, invoice.fingerprint, invoice.takes_stock
FROM unnest($1::uuid[], $2::uuid[]) AS asked (merchant_id, invoice_id)
{INVOICE_BY_KEY}
"""


async def _has_its_invoice(databases: Databases, _: asyncpg.Connection, rows: Sequence[Row], __: float) -> list[str]:
    ids = [core.invoice_id(row["rid"]) for row in rows]
    async with databases.snapshot("invoice") as connection:
        found = await connection.fetch(INVOICES, [row["merchant_id"] for row in rows], ids)
    invoices = {(row["merchant_id"], row["invoice_id"]): row for row in found}
    faults = []
    for row, invoice_id in zip(rows, ids, strict=True):
        invoice = invoices.get((row["merchant_id"], invoice_id))
        if invoice is None:
            fault = "it has no invoice"
        elif (invoice["attempt"], invoice["fingerprint"]) != (row["attempt"], row["fingerprint"]):
            fault = "its invoice is of another attempt or body"
        elif not invoice["takes_stock"]:
            fault = "its invoice takes no stock"
        else:
            continue
        faults.append(f"hold {to_text(row['reservation_id'])}, {row['state']}: {fault}")
    return faults


HAS_ITS_INVOICE = Compare(
    Scan(
        "inventory",
        "reservation",
        RESERVATION,
        columns="merchant_id, reservation_id, resolver, rid, attempt, fingerprint, state",
        where=f"resolver = 'INVOICE' AND state IN ('HELD', 'COMMITTED', 'REVERSED') AND {SETTLED}",
    ),
    _has_its_invoice,
    {"invoice": (INVOICES,)},
)

# ---- I12: what the broker has was written with a version of its invoice; the invoice is read last.


async def _published_versions(databases: Databases, _: asyncpg.Connection, rows: Sequence[Row], __: float) -> list[str]:
    told = []
    for row in rows:
        headers = dict(json.loads(row["headers"]))
        owner = from_text(headers["ce_source"].rsplit("/", 1)[-1], "ce_source")
        told.append((owner, from_text(row["key"].decode(), "key"), int(headers["ce_sequence"]), headers["ce_id"]))
    async with databases.snapshot("invoice") as connection:
        found = await connection.fetch(STILL, [one[0] for one in told], [one[1] for one in told])
    versions = {(row["merchant_id"], row["invoice_id"]): row["version"] for row in found}
    return [
        f"event {event_id}: version {version} of {to_text(invoice_id)} is no version of an invoice"
        for owner, invoice_id, version, event_id in told
        if not 1 <= version <= versions.get((owner, invoice_id), 0)
    ]


PUBLISHED_VERSIONS = Compare(
    Scan(
        "broker",
        "log_record",
        {"topic": "text", "partition": "smallint", "log_offset": "bigint"},
        columns="topic, partition, log_offset, key, headers",
        where="topic = 'invoice.events'",
    ),
    _published_versions,
    {"invoice": (STILL,)},
)


# ---- I15
def outbox_empties(room: str) -> Compare:
    """Every event of a room that is older than the lag window has left its outbox."""
    return sql(
        room,
        "outbox",
        {"merchant_id": "uuid", "event_id": "uuid"},
        """CASE WHEN subject.create_time <= (SELECT before FROM due)
            THEN format('event %s, %s: unpublished for %s s', subject.event_id, subject.type,
                extract(epoch FROM now() - subject.create_time)::bigint) END""",
        columns="merchant_id, event_id, type, create_time",
    )


GROUPS_KEEP_UP = sql(
    "broker",
    "group_position",
    {"consumer_group": "text", "topic": "text", "partition": "smallint"},
    """CASE WHEN EXISTS (
            SELECT FROM (
                SELECT log_record.append_time FROM log_record
                WHERE log_record.topic = subject.topic AND log_record.partition = subject.partition
                    AND log_record.log_offset >= subject.next_offset
                ORDER BY log_record.log_offset
                LIMIT 1
            ) AS next
            WHERE next.append_time <= (SELECT before FROM due)
        ) THEN format('%s: %s partition %s is not read past %s',
            subject.consumer_group, subject.topic, subject.partition, subject.next_offset) END""",
)

# The newest of the moves that other rooms act upon. An invoice makes at most one of them.
SETTLING = f"""
SELECT entry.merchant_id, entry.invoice_id, entry.version, entry.action
FROM unnest($1::uuid[], $2::uuid[]) AS asked (merchant_id, invoice_id)
{by_key("audit_entry", "entry", *INVOICE)}
WHERE entry.action IN ('accept', 'reject', 'cancel')
"""
SEEN = f"""
SELECT inbox.merchant_id, inbox.consumer, inbox.event_id
FROM unnest($1::uuid[], $2::text[], $3::uuid[]) AS asked (merchant_id, consumer, event_id)
{by_key("inbox", "inbox", "merchant_id", "consumer", "event_id")}
"""
# Events that wait for an operator, or that two operators discarded.
SET_ASIDE = """
SELECT event.consumer, event.subject FROM parked_event AS event WHERE event.subject = ANY ($1::text[])
UNION ALL
SELECT letter.consumer, letter.subject FROM dead_letter AS letter
WHERE letter.subject = ANY ($1::text[]) AND letter.kind IN ('PUBLISH', 'CONSUME') AND letter.state = 'DISCARDED'
"""
EVENT_OF = {move.action: move.event for move in (ACCEPT, REJECT, CANCEL)}


async def _events_had_effect(
    databases: Databases, connection: asyncpg.Connection, rows: Sequence[Row], _: float
) -> list[str]:
    buyers = {(row["merchant_id"], row["invoice_id"]): row["buyer_merchant_id"] for row in rows}
    wanted = []
    for entry in await connection.fetch(SETTLING, [r["merchant_id"] for r in rows], [r["invoice_id"] for r in rows]):
        event_id = core.event_id(entry["invoice_id"], entry["version"], EVENT_OF[entry["action"]])
        wanted.append((entry["merchant_id"], SETTLE, event_id))
        buyer = buyers[entry["merchant_id"], entry["invoice_id"]]
        if entry["action"] == ACCEPT.action and buyer is not None:
            wanted.append((buyer, RECEIVE, event_id))
    missing = await _missing_effects(databases, "invoice", "inventory", wanted)
    return [f"event {to_text(event_id)}: {consumer} has not seen it" for _, consumer, event_id in missing]


Effect: TypeAlias = tuple[Id, str, Id]
"""Whose inbox row, of which consumer, about which event."""


async def _missing_effects(databases: Databases, source: str, room: str, wanted: Sequence[Effect]) -> list[Effect]:
    """What a room's consumers have neither seen nor parked, and the room that told it has published."""
    if not wanted:
        return []
    async with databases.snapshot(room) as connection:
        found = await connection.fetch(SEEN, *([one[place] for one in wanted] for place in range(3)))
    seen = {(row["merchant_id"], row["consumer"], row["event_id"]) for row in found}
    missing = [one for one in wanted if one not in seen]
    if not missing:
        return []
    aside: set[tuple[str, str]] = set()
    for database in {source, room}:
        async with databases.snapshot(database) as connection:
            rows = await connection.fetch(SET_ASIDE, [to_text(event_id) for *_, event_id in missing])
        aside |= {(row["consumer"], row["subject"]) for row in rows}
    return [one for one in missing if not {(one[1], to_text(one[2])), ("", to_text(one[2]))} & aside]


EVENTS_HAD_EFFECT = Compare(
    Scan(
        "invoice",
        "invoice",
        INVOICE,
        columns="merchant_id, invoice_id, buyer_merchant_id",
        # Inbox rows live 30 days.
        where=f"""takes_stock AND state NOT IN ('ISSUED', 'EDIT_REQUESTED') AND {SETTLED}
        AND update_time > now() - interval '29 days'""",
    ),
    _events_had_effect,
    {"invoice": (SETTLING, SET_ASIDE), "inventory": (SEEN, SET_ASIDE)},
)

PARTY_VERSIONS = f"""
SELECT party.merchant_id, party.version
FROM unnest($1::uuid[]) AS asked (merchant_id)
{by_key("party", "party", "merchant_id")}
"""


async def _parties_follow(databases: Databases, _: asyncpg.Connection, rows: Sequence[Row], __: float) -> list[str]:
    """The invoice service's copy has every merchant's version, by the event: reading by the way is not enough."""
    wanted = [
        (row["merchant_id"], PARTIES, core.event_id(row["merchant_id"], row["version"], CHANGED))
        for row in rows
        if row["recent"]
    ]
    missing = await _missing_effects(databases, "merchant", "invoice", wanted)
    faults = [f"event {to_text(event_id)}: {consumer} has not seen it" for _, consumer, event_id in missing]
    async with databases.snapshot("invoice") as connection:
        found = await connection.fetch(PARTY_VERSIONS, [row["merchant_id"] for row in rows])
    copies = {row["merchant_id"]: row["version"] for row in found}
    return faults + [
        f"merchant {to_text(row['merchant_id'])}: its copy in the invoice service is behind version {row['version']}"
        for row in rows
        if copies.get(row["merchant_id"], 0) < row["version"]
    ]


PARTIES_FOLLOW = Compare(
    Scan(
        "merchant",
        "merchant",
        {"merchant_id": "uuid"},
        columns="merchant_id, version, update_time > now() - interval '29 days' AS recent",
        where=SETTLED,
    ),
    _parties_follow,
    {"merchant": (SET_ASIDE,), "invoice": (SEEN, PARTY_VERSIONS, SET_ASIDE)},
)

# ---- I16
MOVED = f"""
SELECT movement.merchant_id, movement.movement_id, movement.delta_milli
FROM unnest($1::uuid[], $2::uuid[]) AS asked (merchant_id, movement_id)
{by_key("movement", "movement", *MOVEMENT)}
"""


async def _sold_is_received(
    databases: Databases, connection: asyncpg.Connection, rows: Sequence[Row], _: float
) -> list[str]:
    """By the movements' own ids, so that both merchants' are looked up by key. The buyer may keep a SKU under one of
    three names (receive_goods.py)."""
    items = await _items(connection, rows)
    sold: dict[Id, set[tuple[Id, Id]]] = {}
    received: dict[Id, set[tuple[Id, Id]]] = {}
    for row in rows:
        hold = core.reservation_id(row["rid"], row["attempt"])
        lines = items[row["merchant_id"], row["invoice_id"]]
        sold[row["invoice_id"]] = {(row["merchant_id"], core.movement_id(hold, i["sku"], "SALE")) for i in lines}
        received[row["invoice_id"]] = {(row["buyer_merchant_id"], id_) for id_ in _receipts(row, lines)}
    asked = list(set().union(*sold.values(), *received.values()))
    async with databases.snapshot("inventory") as inventory:
        found = await inventory.fetch(MOVED, [m for m, _ in asked], [i for _, i in asked])
    delta = {(row["merchant_id"], row["movement_id"]): row["delta_milli"] for row in found}
    suspects = []
    for row in rows:
        out, in_ = (sum(delta.get(key, 0) for key in side[row["invoice_id"]]) for side in (sold, received))
        wanted = sum(item["quantity_milli"] for item in items[row["merchant_id"], row["invoice_id"]])
        if (-out, in_) != (wanted, wanted):
            words = f"invoice {to_text(row['invoice_id'])}: {wanted} invoiced, {-out} sold, {in_} received"
            suspects.append((row, words))
    return await _unchanged(databases, suspects)


SOLD_IS_RECEIVED = Compare(
    Scan(
        "invoice",
        "invoice",
        INVOICE,
        columns="merchant_id, invoice_id, buyer_merchant_id, seller_gstin, rid, attempt, version",
        where=f"takes_stock AND state IN ('ACCEPTED', 'PART_PAID', 'PAID') AND {SETTLED}",
    ),
    _sold_is_received,
    {"invoice": (ITEMS, STILL), "inventory": (MOVED,)},
)


def _receipts(invoice: Row, lines: Sequence[Row]) -> set[Id]:
    """The ids that the buyer's movements can have."""
    hold = core.reservation_id(invoice["rid"], invoice["attempt"])
    return {
        core.movement_id(hold, name, "PURCHASE")
        for item in lines
        for name in names(item["sku"], invoice["seller_gstin"], item["unit"])
    }


# A receipt without its invoice, or a second one: the acceptance commits first, so the invoice is read last.
ACCEPTED_BY = """
SELECT invoice.buyer_merchant_id, invoice.merchant_id, invoice.invoice_id, invoice.seller_gstin, invoice.rid,
    invoice.attempt
FROM invoice
WHERE invoice.buyer_merchant_id = ANY ($1::uuid[]) AND invoice.invoice_id = ANY ($2::uuid[])
    AND invoice.takes_stock AND invoice.state IN ('ACCEPTED', 'PART_PAID', 'PAID')
"""


async def _received_was_sold(databases: Databases, _: asyncpg.Connection, rows: Sequence[Row], __: float) -> list[str]:
    async with databases.snapshot("invoice") as connection:
        found = await connection.fetch(
            ACCEPTED_BY, list({row["merchant_id"] for row in rows}), list({row["invoice_id"] for row in rows})
        )
        items = await _items(connection, found)
    receipts = {
        (row["buyer_merchant_id"], row["invoice_id"]): _receipts(row, items[row["merchant_id"], row["invoice_id"]])
        for row in found
    }
    return [
        f"movement {to_text(row['movement_id'])}: goods received, but not by an invoice that this merchant accepted"
        for row in rows
        if row["movement_id"] not in receipts.get((row["merchant_id"], row["invoice_id"]), ())
    ]


RECEIVED_WAS_SOLD = Compare(
    Scan(
        "inventory",
        "movement",
        MOVEMENT,
        columns="merchant_id, movement_id, invoice_id",
        where="kind = 'PURCHASE'",
        # Each page reads the index of its buyers' invoices.
        limit=5_000,
    ),
    _received_was_sold,
    {"invoice": (ACCEPTED_BY, ITEMS)},
)

# ---- I20
COLUMNS = r"""
SELECT format('%s.%s is %s', relation.relname, attribute.attname, format_type(attribute.atttypid, attribute.atttypmod))
    AS column_is, attribute.atttypid IN ('int4'::regtype, 'int8'::regtype, 'int8[]'::regtype) AS sound
FROM pg_attribute AS attribute
JOIN pg_class AS relation ON relation.oid = attribute.attrelid
WHERE relation.relkind IN ('r', 'p') AND relation.relnamespace = 'public'::regnamespace
    AND NOT attribute.attisdropped AND attribute.attname ~ '_(paise|milli)$'
"""


@dataclass(frozen=True)
class IntegerColumns:
    """Every column of money or quantity is an integer, by the database's own catalogue."""

    room: str

    @property
    def rooms(self) -> tuple[str, ...]:
        return (self.room,)

    @property
    def statements(self) -> Mapping[str, Sequence[str]]:
        return {self.room: (COLUMNS,)}

    async def pages(self, databases: Databases, lag_s: float) -> AsyncIterator[Page]:
        async with databases.snapshot(self.room) as connection:
            rows = await connection.fetch(COLUMNS)
        yield Page(len(rows), [row["column_is"] for row in rows if not row["sound"]])
