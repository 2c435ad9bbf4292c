"""What must be true of three traders: keys and their answers, invoices, stock to the unit, events on their way.

Plain Python, written from PROTOCOL 3, 4 and 7; it knows no SQL and nothing of the services. A judgement is the reason
that a call must be refused with ("" if it must be done), and a call is booked only after it was answered so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

OPEN = ("ISSUED", "EDIT_REQUESTED")
# PROTOCOL 4.3: by the buyer or the seller, from which states, to which.
MOVES = {
    "accept": ("buyer", OPEN, "ACCEPTED"),
    "reject": ("buyer", OPEN, "REJECTED"),
    "request_edit": ("buyer", ("ISSUED",), "EDIT_REQUESTED"),
    "decline_edit": ("seller", ("EDIT_REQUESTED",), "ISSUED"),
    "cancel": ("seller", OPEN, "CANCELLED"),
}
CODES = {
    "INSUFFICIENT_STOCK": "FAILED_PRECONDITION",
    "SKU_NOT_FOUND": "NOT_FOUND",
    "DOC_NUMBER_DUPLICATE": "ALREADY_EXISTS",
    "CANCELLED_BY_CLIENT": "FAILED_PRECONDITION",
    "INVALID_STATE": "FAILED_PRECONDITION",
    "VERSION_MISMATCH": "ABORTED",
    "BATCH_REFUSED": "ABORTED",
    "INVOICE_NOT_FOUND": "NOT_FOUND",
    "KEY_REUSED_WITH_DIFFERENT_PAYLOAD": "INVALID_ARGUMENT",
    "VALIDATION_FAILED": "INVALID_ARGUMENT",
    "DEPENDENCY_DOWN": "UNAVAILABLE",
}
REUSED = "KEY_REUSED_WITH_DIFFERENT_PAYLOAD"
CANCELLED = "CANCELLED_BY_CLIENT"
UNDECIDED, SUCCEEDED, FAILED, ABORTED = "UNDECIDED", "SUCCEEDED", "FAILED", "ABORTED"


@dataclass(frozen=True)
class Body:
    """An invoice as it is asked for: (SKU, units) a line, no SKU for a service; no number: the server gives one."""

    buyer: int
    lines: tuple[tuple[str, int], ...]
    number: str = ""

    def takes(self) -> Counter[str]:
        """Units of each SKU."""
        taken: Counter[str] = Counter()
        for sku, units in self.lines:
            if sku:
                taken[sku] += units
        return taken


@dataclass
class Fate:
    """What became of a key. `body` is what it is bound to: any, where the client itself ended it."""

    state: str = UNDECIDED
    body: Any = None
    reason: str = ""
    # What was told first: the message, or code, reason and facts of a refusal. It is told for ever (R5).
    told: Any = None
    # A hold that waits for nobody: its request died, or its release was lost. The resolver frees it.
    hold: Body | None = None

    def knows(self, body: Any) -> str | None:
        """The reason that a repeat is refused with, "" if it gets the first answer, None if it is decided afresh."""
        if self.state == UNDECIDED:
            return None
        if self.reason == CANCELLED:
            return CANCELLED
        if self.body != body:
            return REUSED
        return None if self.state == ABORTED else self.reason


@dataclass
class Invoice:
    invoice_id: str
    key: str
    seller: int
    body: Body
    state: str = "ISSUED"
    version: int = 1


@dataclass
class Books:
    """The state of the world, as clients may rely on it."""

    # (trader, SKU) -> units on hand, units reserved.
    stock: dict[tuple[int, str], list[int]] = field(default_factory=dict)
    invoices: list[Invoice] = field(default_factory=list)
    # (seller, number in capitals).
    numbers: set[tuple[int, str]] = field(default_factory=set)
    # (trader, operation, key, invoice acted on).
    fates: dict[tuple[int, str, str, str], Fate] = field(default_factory=dict)
    # Invoices whose last event is with the outbox, and those each consumer has still to hear of.
    outbox: list[Invoice] = field(default_factory=list)
    unheard: dict[str, list[Invoice]] = field(default_factory=lambda: {"settle": [], "receive": []})

    def fate(self, who: int, operation: str, key: str, invoice_id: str = "") -> Fate:
        return self.fates.setdefault((who, operation, key, invoice_id), Fate())

    def creations(self) -> list[tuple[int, str, Fate]]:
        return [(who, key, fate) for (who, op, key, _), fate in self.fates.items() if op == "invoice.create"]

    # ---- stock

    def refuses(self, seller: int, body: Body, also: Counter[str] | None = None) -> str:
        """Why stock for this body cannot be held, with `also` held before it."""
        wanted = body.takes()
        for sku, units in sorted(wanted.items()):
            if (seller, sku) not in self.stock:
                return "SKU_NOT_FOUND"
            on_hand, reserved = self.stock[seller, sku]
            if units > on_hand - reserved - (also or Counter())[sku]:
                return "INSUFFICIENT_STOCK"
        return ""

    def move_stock(self, who: int, body: Body, *, on_hand: int = 0, reserved: int = 0) -> None:
        """Changes both figures of each SKU by so many times the body's units."""
        for sku, units in body.takes().items():
            row = self.stock.setdefault((who, sku), [0, 0])
            row[0] += on_hand * units
            row[1] += reserved * units

    def adjust(self, who: int, sku: str, how: str, units: int) -> str:
        """Books an adjustment, or says why it is refused."""
        if (who, sku) not in self.stock and how == "REMOVE":
            return "SKU_NOT_FOUND"
        on_hand, reserved = self.stock.get((who, sku), [0, 0])
        after = {"ADD": on_hand + units, "REMOVE": on_hand - units, "SET": units}[how]
        if after < on_hand and after < reserved:
            return "INSUFFICIENT_STOCK"
        self.stock[who, sku] = [after, reserved]
        return ""

    # ---- creation

    def number_taken(self, seller: int, body: Body) -> bool:
        return bool(body.number) and (seller, body.number.upper()) in self.numbers

    def judge_create(self, seller: int, body: Body, fate: Fate) -> str:
        """The reason that CreateInvoice answers with, "" for an invoice."""
        known = fate.knows(body)
        if known is not None:
            return known
        if fate.hold is None or not body.takes():
            refused = self.refuses(seller, body)
        else:
            # The hold of an attempt that died is used by the same request, and by no other.
            refused = "" if fate.hold == body else REUSED
        return refused or ("DOC_NUMBER_DUPLICATE" if self.number_taken(seller, body) else "")

    def book_refusal(self, fate: Fate, body: Any, reason: str, told: Any) -> None:
        """Only what is final for the key is kept (PROTOCOL 13)."""
        if CODES[reason] in ("FAILED_PRECONDITION", "NOT_FOUND", "ALREADY_EXISTS") and reason != "INVOICE_NOT_FOUND":
            if fate.state in (UNDECIDED, ABORTED):
                fate.state, fate.body, fate.reason, fate.told = FAILED, body, reason, told
        elif reason == "BATCH_REFUSED" and fate.state == UNDECIDED:
            fate.state, fate.body = ABORTED, body

    def book_invoice(self, seller: int, key: str, fate: Fate, body: Body, message: Any) -> None:
        if fate.hold == body and body.takes():
            fate.hold = None
        else:
            self.move_stock(seller, body, reserved=1)
        fate.state, fate.body, fate.told = SUCCEEDED, body, message
        self.invoices.append(Invoice(message.invoice_id, key, seller, body))
        assert (seller, message.number.upper()) not in self.numbers, "a number was given twice"
        self.numbers.add((seller, message.number.upper()))

    def free(self, seller: int, fate: Fate) -> None:
        """The hold of a request that will never use it is given back."""
        assert fate.hold is not None
        self.move_stock(seller, fate.hold, reserved=-1)
        fate.hold = None

    def judge_batch(self, seller: int, items: Sequence[tuple[str, Body]], *, whole: bool) -> list[str]:
        """The reasons of a batch's items: first each takes its stock in turn, then numbers are looked at."""
        fates = [self.fate(seller, "invoice.create", key) for key, _ in items]
        reasons: list[str] = []
        held: Counter[str] = Counter()
        bodies: dict[str, Body] = {}
        for (key, body), fate in zip(items, fates, strict=True):
            known = fate.knows(body)
            if known is None and key in bodies:
                # The same key before it in this batch.
                known = reasons[[k for k, _ in items].index(key)] if bodies[key] == body else REUSED
            elif known is None:
                bodies[key] = body
                known = self.refuses(seller, body, held)
                if not known:
                    held += body.takes()
            reasons.append(known)
        if not (whole and any(reasons)):
            for at, ((_, body), fate) in enumerate(zip(items, fates, strict=True)):
                if not reasons[at] and fate.knows(body) is None and self.number_taken(seller, body):
                    reasons[at] = "DOC_NUMBER_DUPLICATE"
        if whole and any(reasons):
            undone = [not r and f.knows(b) is None for r, f, (_, b) in zip(reasons, fates, items, strict=True)]
            reasons = ["BATCH_REFUSED" if other else r for r, other in zip(reasons, undone, strict=True)]
        return reasons

    # ---- actions

    def judge_move(self, who: int, action: str, invoice: Invoice, etag: str, fate: Fate, body: Any) -> str:
        """The reason that an action is refused with, "" if it is done."""
        side, starts, _ = MOVES[action]
        if who not in (invoice.seller, invoice.body.buyer):
            return "INVOICE_NOT_FOUND"
        known = fate.knows(body)
        if known is not None:
            return known
        if who != (invoice.seller if side == "seller" else invoice.body.buyer) or invoice.state not in starts:
            return "INVALID_STATE"
        return "VERSION_MISMATCH" if etag and etag != str(invoice.version) else ""

    def book_move(self, action: str, invoice: Invoice, fate: Fate, body: Any, message: Any) -> None:
        fate.state, fate.body, fate.told = SUCCEEDED, body, message
        invoice.state, invoice.version = MOVES[action][2], invoice.version + 1
        if invoice.state not in OPEN:
            self.outbox.append(invoice)

    # ---- behind the answers

    def relay(self) -> None:
        for waiting in self.unheard.values():
            waiting += self.outbox
        self.outbox = []

    def consume(self, consumer: str) -> None:
        """Sold or given back by the seller's side; received by the buyer's (PROTOCOL 4.2)."""
        for invoice in self.unheard[consumer]:
            sold = invoice.state == "ACCEPTED"
            if consumer == "settle":
                self.move_stock(invoice.seller, invoice.body, on_hand=-sold, reserved=-1)
            elif sold:
                self.move_stock(invoice.body.buyer, invoice.body, on_hand=1)
        self.unheard[consumer] = []

    def resolve(self) -> None:
        """A hold that no invoice uses is freed; an undecided attempt is fenced first (PROTOCOL 5)."""
        for seller, _, fate in self.creations():
            if fate.hold is not None:
                if fate.state == UNDECIDED:
                    fate.state, fate.body = ABORTED, fate.hold
                self.free(seller, fate)
