"""What is broken by hand: the invariant that must notice, the database, and the SQL that breaks it.

Where a constraint forbids the damage it is dropped first: the checker must not rest on constraints.
"""

from __future__ import annotations


def one(table: str, where: str = "true") -> str:
    """Names the first row that fits."""
    return f"ctid = (SELECT ctid FROM {table} WHERE {where} ORDER BY ctid LIMIT 1)"


FREE = "on_hand_milli > reserved_milli"
HELD = "resolver = 'INVOICE' AND state = 'HELD'"
ISSUED = "takes_stock AND state = 'ISSUED'"
CREATED = "operation = 'invoice.create' AND state = 'SUCCEEDED'"

BREAKS: dict[str, tuple[str, str, str]] = {
    # ---- stock
    "more on hand than the movements say": (
        "I1",
        "inventory",
        f"UPDATE stock SET on_hand_milli = on_hand_milli + 1 WHERE {one('stock', FREE)}",
    ),
    "a movement that is gone": ("I1", "inventory", f"DELETE FROM movement WHERE {one('movement')}"),
    "a movement without stock": (
        "I1",
        "inventory",
        """INSERT INTO movement (merchant_id, movement_id, sku, kind, delta_milli)
           VALUES (gen_random_uuid(), gen_random_uuid(), 'NO-SUCH', 'ADJUSTMENT', 1)""",
    ),
    "reserved for nothing": (
        "I2",
        "inventory",
        f"UPDATE stock SET reserved_milli = reserved_milli + 1 WHERE {one('stock', FREE)}",
    ),
    "a hold on what is not there": (
        "I2",
        "inventory",
        """INSERT INTO reservation (merchant_id, reservation_id, resolver, state, rid, attempt, skus, quantities_milli)
           SELECT id, id, 'NONE', 'PENDING', id, 1, '{NO-SUCH}', '{1}' FROM gen_random_uuid() AS id""",
    ),
    "more reserved than there is": (
        "I3",
        "inventory",
        """ALTER TABLE stock DROP CONSTRAINT stock_each_unit_given_once;
           UPDATE stock SET reserved_milli = on_hand_milli + 1""",
    ),
    "a hold under another's id": (
        "I4",
        "inventory",
        f"UPDATE reservation SET rid = gen_random_uuid() WHERE {one('reservation', HELD)}",
    ),
    # ---- invoices and their holds
    "an invoice without its hold": ("I5", "inventory", f"DELETE FROM reservation WHERE {one('reservation', HELD)}"),
    "a hold of another quantity": (
        "I5",
        "inventory",
        f"UPDATE reservation SET quantities_milli[1] = quantities_milli[1] + 1 WHERE {one('reservation', HELD)}",
    ),
    "a hold of another body": (
        "I5",
        "inventory",
        f"UPDATE reservation SET fingerprint = sha256('x') WHERE {one('reservation', HELD)}",
    ),
    "an accepted invoice that was not sold": (
        "I5",
        "inventory",
        "UPDATE reservation SET state = 'HELD' WHERE state = 'COMMITTED'",
    ),
    "a rejected invoice that keeps its stock": (
        "I5",
        "inventory",
        "UPDATE reservation SET state = 'HELD' WHERE state = 'REVERSED'",
    ),
    "a hold whose invoice is gone": ("I6", "invoice", f"DELETE FROM invoice WHERE {one('invoice', ISSUED)}"),
    "a hold whose invoice takes no stock": (
        "I6",
        "invoice",
        f"UPDATE invoice SET takes_stock = false WHERE {one('invoice', ISSUED)}",
    ),
    "a hold that waits": (
        "I7",
        "inventory",
        f"UPDATE reservation SET state = 'PENDING' WHERE {one('reservation', HELD)}",
    ),
    # ---- decisions and numbers
    "a success without its invoice": ("I8", "invoice", f"DELETE FROM invoice WHERE {one('invoice')}"),
    "an invoice without its decision": ("I8", "invoice", f"DELETE FROM decision WHERE {one('decision', CREATED)}"),
    "a refusal with an invoice": (
        "I8",
        "invoice",
        f"UPDATE decision SET state = 'FAILED' WHERE {one('decision', CREATED)}",
    ),
    "an invoice of another attempt": ("I8", "invoice", f"UPDATE invoice SET attempt = 2 WHERE {one('invoice')}"),
    "a gap in a series": (
        "I9",
        "invoice",
        "UPDATE invoice SET number = 'X/1', number_key = 'X/1' WHERE number_key LIKE 'INV/%/00002'",
    ),
    "a counter that ran ahead": ("I9", "invoice", "UPDATE number_series SET last_given = last_given + 1"),
    "a number given twice": (
        "I9",
        "invoice",
        """ALTER TABLE invoice DROP CONSTRAINT invoice_number_once;
           UPDATE invoice SET number = 'OWN/1', number_key = 'OWN/1'
           WHERE number_key = (SELECT max(number_key) FROM invoice WHERE number_key LIKE 'INV/%');
           UPDATE number_series SET last_given = last_given - 1""",
    ),
    # ---- money
    "a header that is not the sum": (
        "I10",
        "invoice",
        f"UPDATE invoice SET taxable_paise = taxable_paise + 1 WHERE {one('invoice')}",
    ),
    "a total that is not the sum": (
        "I10",
        "invoice",
        f"UPDATE invoice SET total_paise = total_paise + 1 WHERE {one('invoice')}",
    ),
    "a tax that does not recompute": (
        "I10",
        "invoice",
        """UPDATE invoice SET cgst_paise = cgst_paise + 1, sgst_paise = sgst_paise + 1 WHERE igst_paise = 0;
           UPDATE invoice_item SET cgst_paise = cgst_paise + 1, sgst_paise = sgst_paise + 1
           WHERE line = 1 AND igst_paise = 0""",
    ),
    "two kinds of tax": (
        "I10",
        "invoice",
        """ALTER TABLE invoice DROP CONSTRAINT invoice_one_kind_of_tax;
           ALTER TABLE invoice_item DROP CONSTRAINT invoice_item_one_kind_of_tax;
           UPDATE invoice SET igst_paise = 1;
           UPDATE invoice_item SET igst_paise = 1 WHERE line = 1""",
    ),
    # ---- versions and audit
    "a version without an entry": (
        "I12",
        "invoice",
        f"UPDATE invoice SET version = version + 1 WHERE {one('invoice')}",
    ),
    "an entry that is gone": ("I12", "invoice", f"DELETE FROM audit_entry WHERE {one('audit_entry', 'version = 1')}"),
    "a published event ahead of its invoice": (
        "I12",
        "broker",
        """UPDATE log_record SET headers = replace(headers::text, '"ce_sequence","1"', '"ce_sequence","9"')::json
           WHERE topic = 'invoice.events'""",
    ),
    "a waiting event of no invoice": (
        "I12",
        "invoice",
        """INSERT INTO outbox (merchant_id, event_id, aggregate_id, version, partition, type, payload)
           VALUES (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 1, 0, 'invochain.invoice.issued.v1', '')""",
    ),
    "a changed entry": (
        "I13",
        "invoice",
        f"UPDATE audit_entry SET salt = decode(repeat('00', 16), 'hex') WHERE {one('audit_entry')}",
    ),
    "a forged MAC": ("I13", "invoice", f"UPDATE audit_entry SET mac = sha256('x') WHERE {one('audit_entry')}"),
    "a state that nobody set": (
        "I13",
        "invoice",
        f"UPDATE invoice SET state = 'ACCEPTED' WHERE {one('invoice', ISSUED)}",
    ),
    # ---- events
    "an event that nobody publishes": (
        "I15",
        "invoice",
        """INSERT INTO outbox (merchant_id, event_id, aggregate_id, version, partition, type, payload)
           SELECT merchant_id, gen_random_uuid(), invoice_id, 1, 0, 'invochain.invoice.issued.v1', '' FROM invoice""",
    ),
    "a group that does not read": (
        "I15",
        "broker",
        """UPDATE group_position SET next_offset = 0
           WHERE consumer_group = 'inventory.settle' AND topic = 'invoice.events'""",
    ),
    "a sale's event without its effect": ("I15", "inventory", "DELETE FROM inbox WHERE consumer = 'inventory.settle'"),
    "a receipt's event without its effect": (
        "I15",
        "inventory",
        "DELETE FROM inbox WHERE consumer = 'inventory.receive'",
    ),
    **{
        f"an event of {room} that nobody publishes": (
            "I15",
            room,
            """INSERT INTO outbox (merchant_id, event_id, aggregate_id, version, partition, type, payload)
               VALUES (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 1, 0, 'invochain.x.y.v1', '')""",
        )
        for room in ("merchant", "inventory")
    },
    "a merchant whose copy is old": ("I15", "invoice", f"UPDATE party SET version = 0 WHERE {one('party')}"),
    "a merchant nobody told of": ("I15", "invoice", "DELETE FROM inbox WHERE consumer = 'invoice.parties'"),
    # ---- dead letters
    **{
        f"a letter of {room} about an event that is not parked": (
            "I19",
            room,
            """INSERT INTO dead_letter
                 (merchant_id, dead_letter_id, kind, consumer, subject, aggregate, reason, attempts)
               SELECT id, id, 'CONSUME', 'x', id, id, 'X', 1 FROM gen_random_uuid() AS id""",
        )
        for room in ("merchant", "inventory", "invoice")
    },
    "a parked aggregate that nobody sees": (
        "I19",
        "inventory",
        "INSERT INTO parked_aggregate (merchant_id, consumer, aggregate) VALUES (gen_random_uuid(), '', 'x')",
    ),
    "a letter about a sale that was made": (
        "I19",
        "inventory",
        """INSERT INTO dead_letter (merchant_id, dead_letter_id, kind, subject, aggregate, rid, attempt, fingerprint,
             reason, attempts)
           SELECT
             merchant_id, reservation_id, 'SELL', reservation_id::text, rid::text, rid, attempt, fingerprint, 'X', 1
           FROM reservation WHERE state = 'COMMITTED' AND resolver = 'INVOICE' LIMIT 1""",
    ),
    # ---- goods
    "goods that never arrived": ("I16", "inventory", "DELETE FROM movement WHERE kind = 'PURCHASE'"),
    "goods that were never sold": ("I16", "inventory", "DELETE FROM movement WHERE kind = 'SALE'"),
    "goods out of nothing": (
        "I16",
        "inventory",
        """INSERT INTO movement (merchant_id, movement_id, sku, kind, delta_milli, invoice_id)
           SELECT merchant_id, gen_random_uuid(), sku, 'PURCHASE', 1, gen_random_uuid() FROM stock""",
    ),
    "goods received twice": (
        "I16",
        "inventory",
        """INSERT INTO movement (merchant_id, movement_id, sku, kind, delta_milli, invoice_id, reservation_id)
           SELECT merchant_id, gen_random_uuid(), sku, kind, delta_milli, invoice_id, reservation_id
           FROM movement WHERE kind = 'PURCHASE'""",
    ),
    "goods sold twice": (
        "I16",
        "inventory",
        """INSERT INTO movement (merchant_id, movement_id, sku, kind, delta_milli, invoice_id, reservation_id)
           SELECT merchant_id, gen_random_uuid(), sku, kind, delta_milli, invoice_id, reservation_id
           FROM movement WHERE kind = 'SALE'""",
    ),
    # ---- owners
    "a line of another merchant": (
        "I18",
        "invoice",
        f"UPDATE invoice_item SET merchant_id = gen_random_uuid() WHERE {one('invoice_item')}",
    ),
    "an entry of another merchant": (
        "I18",
        "invoice",
        f"UPDATE audit_entry SET merchant_id = gen_random_uuid() WHERE {one('audit_entry')}",
    ),
    "an invoice shown to another merchant": (
        "I18",
        "invoice",
        f"UPDATE invoice SET buyer_merchant_id = merchant_id WHERE {one('invoice')}",
    ),
    "an invoice of another merchant than its seller": (
        "I18",
        "invoice",
        f"UPDATE invoice SET merchant_id = buyer_merchant_id WHERE {one('invoice')}",
    ),
    "a sale from another merchant's hold": (
        "I18",
        "inventory",
        "UPDATE movement SET reservation_id = gen_random_uuid() WHERE kind = 'SALE'",
    ),
    # ---- types and bounds
    "money in a float": (
        "I20",
        "merchant",
        "ALTER TABLE merchant ALTER COLUMN annual_turnover_paise TYPE double precision",
    ),
    "a quantity in a float": (
        "I20",
        "inventory",
        "ALTER TABLE movement ALTER COLUMN delta_milli TYPE double precision",
    ),
    "a tax in a numeric": ("I20", "invoice", "ALTER TABLE invoice_item ALTER COLUMN cess_paise TYPE numeric"),
    "stock beyond what sums can hold": (
        "I20",
        "inventory",
        """ALTER TABLE stock DROP CONSTRAINT stock_on_hand_bounded;
           UPDATE stock SET on_hand_milli = 100000000000000001""",
    ),
    "an amount below zero": ("I20", "invoice", f"UPDATE invoice_item SET cess_paise = -1 WHERE {one('invoice_item')}"),
    "a quantity of nothing": (
        "I20",
        "invoice",
        f"UPDATE invoice_item SET quantity_milli = 0 WHERE {one('invoice_item')}",
    ),
    "a total beyond what a form can say": (
        "I20",
        "invoice",
        f"""ALTER TABLE invoice DROP CONSTRAINT invoice_total_in_range;
            UPDATE invoice SET total_paise = 10000000000000000 WHERE {one("invoice")}""",
    ),
}
