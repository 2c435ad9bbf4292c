"""The table of invariants: what PROTOCOL 15 says, and the probes that look for what breaks it."""

from __future__ import annotations

from invochain.check import across_rules as across
from invochain.check import invoice_rules as invoice
from invochain.check import letter_rules as letters
from invochain.check import stock_rules as stock
from invochain.check.rule import Rule

RULES = (
    Rule(
        "I1",
        "on hand is the sum of the movements",
        "always",
        (stock.ON_HAND, stock.MOVED_SOMETHING),
    ),
    Rule(
        "I2",
        "reserved is what PENDING and HELD holds take",
        "always",
        (stock.RESERVED, stock.HOLDS_SOMETHING),
    ),
    Rule("I3", "0 <= reserved <= on hand (+ deficit)", "always", (stock.EACH_UNIT_ONCE,)),
    Rule("I4", "at most one lasting hold a request", "always", (stock.ONE_LASTING,)),
    Rule("I5", "an invoice has exactly its stock, as its state wants it", "lagged", (across.HAS_ITS_STOCK,)),
    Rule("I6", "no lasting hold without its invoice", "lagged", (across.HAS_ITS_INVOICE,)),
    Rule("I7", "no hold waits for its decision for long", "lagged", (stock.OLD_PENDING,)),
    Rule(
        "I8",
        "an invoice and its decision say the same",
        "always",
        (invoice.DECIDED, invoice.HAS_DECISION),
    ),
    Rule(
        "I9",
        "numbers are unique, and the server's series have no gaps",
        "always",
        (invoice.NUMBER_ONCE, invoice.SERIES_WHOLE),
    ),
    Rule(
        "I10",
        "headers are the sums of their lines, and tax recomputes",
        "always",
        (invoice.HEADER_IS_SUM, invoice.TAX_RECOMPUTES),
    ),
    Rule("I11", "paid and credited stay within what is owed", "always", missing="there are no payments and notes yet"),
    Rule(
        "I12",
        "versions count audit entries, and no event is ahead of them",
        "always",
        (invoice.VERSIONS, invoice.OUTBOX_VERSIONS, across.PUBLISHED_VERSIONS),
    ),
    Rule("I13", "audit chains and their MACs verify", "always", (invoice.CHAINS_HOLD,)),
    Rule("I14", "the audit tree is whole and signed", "lagged", missing="there is no audit tree yet"),
    Rule(
        "I15",
        "every event is published and had its effects, or is parked",
        "lagged",
        (
            *(across.outbox_empties(room) for room in ("merchant", "inventory", "invoice")),
            across.GROUPS_KEEP_UP,
            across.EVENTS_HAD_EFFECT,
            across.PARTIES_FOLLOW,
        ),
    ),
    Rule(
        "I16",
        "what buyers received is what sellers sold",
        "lagged",
        (across.SOLD_IS_RECEIVED, across.RECEIVED_WAS_SOLD, stock.SOLD_ONCE),
    ),
    Rule("I17", "what clients were told stays true", "always", missing="it reads a client's log, not databases"),
    Rule(
        "I18",
        "a row belongs to the merchant of its parent",
        "always",
        (invoice.ITEMS_OWNED, invoice.ENTRIES_OWNED, invoice.PARTIES_OWN, stock.SOLD_FROM_OWN_HOLD),
    ),
    Rule(
        "I19",
        "a dead letter points to what is wrong, and what is parked has one",
        "lagged",
        (
            *(letters.parked_for_a_letter(room) for room in ("merchant", "inventory", "invoice")),
            *(letters.letter_for_the_parked(room) for room in ("merchant", "inventory", "invoice")),
            letters.NOT_SOLD_YET,
            letters.NOT_SETTLED_YET,
        ),
    ),
    Rule(
        "I20",
        "money and quantities are integers within bounds",
        "always",
        (
            *(across.IntegerColumns(room) for room in ("merchant", "inventory", "invoice")),
            stock.STOCK_BOUNDS,
            invoice.INVOICE_BOUNDS,
            invoice.ITEM_BOUNDS,
        ),
    ),
)

NAMES = tuple(rule.name for rule in RULES)
# Those that say whether the record of invoices is what was written: `invochain audit verify`.
RECORD = ("I8", "I9", "I10", "I12", "I13", "I18")
