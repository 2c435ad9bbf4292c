"""The nouns of this room: states, the moves between them, and who may make them (PROTOCOL 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from invochain.api.invoice.v1 import invoice_events_pb2 as events
from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.errors import Code, FieldViolation, Refusal, Retry, ValidationFailed

DOC_TYPE = "INV"
CREATE = "invoice.create"
ISSUED_TYPE = "invochain.invoice.issued.v1"
REASON_CHARS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Move:
    """One change of state. `operation` scopes its idempotency key; `event` is the type of the fact it publishes."""

    action: str
    by_buyer: bool
    starts: frozenset[str]
    ends: str
    event: str
    reason_required: bool = False

    @property
    def operation(self) -> str:
        return f"invoice.{self.action}"


OPEN = frozenset({"ISSUED", "EDIT_REQUESTED"})

ACCEPT = Move("accept", True, OPEN, "ACCEPTED", "invochain.invoice.accepted.v1")
REJECT = Move("reject", True, OPEN, "REJECTED", "invochain.invoice.rejected.v1", reason_required=True)
REQUEST_EDIT = Move(
    "request_edit",
    True,
    frozenset({"ISSUED"}),
    "EDIT_REQUESTED",
    "invochain.invoice.edit_requested.v1",
    reason_required=True,
)
DECLINE_EDIT = Move(
    "decline_edit", False, frozenset({"EDIT_REQUESTED"}), "ISSUED", "invochain.invoice.edit_declined.v1"
)
CANCEL = Move("cancel", False, OPEN, "CANCELLED", "invochain.invoice.cancelled.v1")

MOVES = (ACCEPT, REJECT, REQUEST_EDIT, DECLINE_EDIT, CANCEL)
SELLERS, BUYERS = "ISSUER", "APPROVER"
# Each operation, and the role that may do it.
ROLE_OF = {CREATE: SELLERS} | {move.operation: BUYERS if move.by_buyer else SELLERS for move in MOVES}
OPERATIONS = tuple(ROLE_OF)

# The message of each event type; all have the shape {invoice, hold}.
EVENTS = {
    ISSUED_TYPE: events.InvoiceIssued,
    ACCEPT.event: events.InvoiceAccepted,
    REJECT.event: events.InvoiceRejected,
    REQUEST_EDIT.event: events.InvoiceEditRequested,
    DECLINE_EDIT.event: events.InvoiceEditDeclined,
    CANCEL.event: events.InvoiceCancelled,
}


def state_number(state: str) -> int:
    """InvoiceState of the contract."""
    return int(api.InvoiceState.Value(state))


def allowed_actions(state: str, *, seller: bool, buyer: bool) -> list[str]:
    """What a party may do with an invoice in this state."""
    return [move.action for move in MOVES if state in move.starts and (buyer if move.by_buyer else seller)]


# Of the seller, with an invoice just issued.
FIRST_ACTIONS = allowed_actions("ISSUED", seller=True, buyer=False)


# An error's details travel in response headers, of which a peer takes 8 KiB (gRPC's default), in base64.
VIOLATION_BYTES_MAX = 4_500


@dataclass(eq=False)
class InvoiceInvalid(ValidationFailed):
    """The rules that an invoice breaks. The details list as many as fit into an error, and the message counts them all;
    ValidateInvoice lists all."""

    def violations(self) -> Sequence[FieldViolation]:
        room = VIOLATION_BYTES_MAX
        fitting = []
        for one in self.broken:
            room -= len(one.field.encode()) + len(one.code) + len(one.description.encode()) + 16
            if room < 0:
                break
            fitting.append(one)
        return fitting or self.broken[:1]


@dataclass(eq=False)
class InvoiceNotFound(Refusal):
    """There is no such invoice, or it is not the caller's: both are told alike."""

    code, reason, retry = Code.NOT_FOUND, "INVOICE_NOT_FOUND", Retry.NEVER
    message = "no invoice {invoice_id}"
    invoice_id: str


@dataclass(eq=False)
class InvalidState(Refusal):
    """The invoice's state does not allow the action."""

    code, reason, retry = Code.FAILED_PRECONDITION, "INVALID_STATE", Retry.WITH_NEW_KEY
    message = "the invoice is {state}, which does not allow {action}"
    action: str
    state: str
    allowed_actions: Sequence[str]

    def __str__(self) -> str:
        allowed = ", ".join(self.allowed_actions) or "nothing"
        return f"the invoice is {self.state}, which does not allow {self.action}; you may: {allowed}"


@dataclass(eq=False)
class NumberTaken(Refusal):
    """The number was used before in this financial year, in any case of letters, or belongs to a series."""

    code, reason, retry = Code.ALREADY_EXISTS, "DOC_NUMBER_DUPLICATE", Retry.WITH_NEW_KEY
    message = "number {number} is used in {financial_year} by this GSTIN, or lies in a series the server numbers"
    number: str
    financial_year: str


@dataclass(eq=False)
class CancelledByClient(Refusal):
    """The client ended this key itself."""

    code, reason, retry = Code.FAILED_PRECONDITION, "CANCELLED_BY_CLIENT", Retry.WITH_NEW_KEY
    message = "this idempotency-key was ended by CancelOperation; use a new one"


@dataclass(eq=False)
class BatchRefused(Refusal):
    """A neighbour in an all_or_nothing batch was refused."""

    code, reason, retry = Code.ABORTED, "BATCH_REFUSED", Retry.SAME_KEY_SOON
    message = "nothing was issued: another item of this all_or_nothing batch was refused"
