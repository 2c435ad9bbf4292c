"""What InvoChain refuses, one class a reason, in a tree by gRPC code: catch as finely as you need.

    try: client.invoices.create(invoice)
    except InsufficientStock as short: order_more(short.sku, short.asked_milli - short.free_milli)
    except ValidationFailed as bad: show(bad.violations)

Neither yes nor no is OutcomeUnknown (outcome.py).

Every reason of the contract's ErrorReason has a class here (a test holds the two to each other); a reason that this
release does not know yet is told by the class of its code. Switch on classes or on `reason`; messages may change.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

from invochain_client.refusal import Refusal, Violation


class InvochainError(Exception):
    """Any call that did not do what was asked."""

    by_reason: ClassVar[dict[str, type[InvochainError]]] = {}
    by_code: ClassVar[dict[str, type[InvochainError]]] = {}

    def __init_subclass__(cls, *, reason: str = "", code: str = "", **more: Any) -> None:
        super().__init_subclass__(**more)
        for table, name in ((InvochainError.by_reason, reason), (InvochainError.by_code, code)):
            if name:
                assert name not in table, f"{name} has two classes"
                table[name] = cls

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal

    def __str__(self) -> str:
        return f"{self.refusal.reason or self.refusal.code}: {self.refusal.message}"

    @property
    def code(self) -> str:
        """Name of the gRPC status code, for example FAILED_PRECONDITION."""
        return self.refusal.code

    @property
    def reason(self) -> str:
        """Name in ErrorReason, for example INSUFFICIENT_STOCK; empty when no InvoChain service answered."""
        return self.refusal.reason

    @property
    def message(self) -> str:
        return self.refusal.message

    @property
    def facts(self) -> Mapping[str, str]:
        """What the refusal is about, by name."""
        return self.refusal.facts

    @property
    def violations(self) -> tuple[Violation, ...]:
        """The broken rules; empty but for ValidationFailed."""
        return self.refusal.violations

    @property
    def retry_after_s(self) -> float | None:
        return self.refusal.retry_after_s

    @property
    def request_id(self) -> str:
        """Finds the log lines of the call."""
        return self.refusal.request_id

    @property
    def replayed(self) -> bool:
        """An earlier call with this key was refused so; nothing was looked at again."""
        return self.refusal.replayed


def error_of(refusal: Refusal) -> InvochainError:
    """The exception of a refusal: by its reason, else by its code."""
    kind = InvochainError.by_reason.get(refusal.reason) or InvochainError.by_code.get(refusal.code, UnexpectedCode)
    return kind(refusal)


# ---------------------------------------------------------------- by gRPC code


class InvalidArgument(InvochainError, code="INVALID_ARGUMENT"):
    """The request can never succeed as it is; nothing was done and the key is not used up."""


class Unauthenticated(InvochainError, code="UNAUTHENTICATED"):
    """Who is calling is not known."""


class PermissionDenied(InvochainError, code="PERMISSION_DENIED"):
    """The caller may not do this."""


class NotFound(InvochainError, code="NOT_FOUND"):
    """There is no such thing, or it is another merchant's: both are told alike."""


class AlreadyExists(InvochainError, code="ALREADY_EXISTS"):
    """Something unique is taken. Final for the key."""


class FailedPrecondition(InvochainError, code="FAILED_PRECONDITION"):
    """The present state does not allow it. Final for the key: a new attempt wants a new key."""


class Aborted(InvochainError, code="ABORTED"):
    """Not done by this call."""


class ResourceExhausted(InvochainError, code="RESOURCE_EXHAUSTED"):
    """Not started: too much at once, or too large."""


class Unavailable(InvochainError, code="UNAVAILABLE"):
    """No answer."""


class DeadlineExceeded(InvochainError, code="DEADLINE_EXCEEDED"):
    """No answer in time."""


class Cancelled(InvochainError, code="CANCELLED"):
    """The call was given up on the way."""


class Internal(InvochainError, code="INTERNAL"):
    """A defect over there; `request_id` finds its log line."""


class DataLoss(InvochainError, code="DATA_LOSS"):
    """An invariant is broken over there."""


class UnexpectedCode(InvochainError):
    """A code that InvoChain does not use; something on the way to it answered."""


# ---------------------------------------------------------------- by reason


class ValidationFailed(InvalidArgument, reason="VALIDATION_FAILED"):
    """Rules are broken; `violations` lists them, as many as fit into an error (the message counts them all;
    `invoices.validate` lists all)."""

    def __str__(self) -> str:
        return "; ".join([super().__str__(), *(f"{v.field}: {v.code}" for v in self.violations)])


class KeyRequired(InvalidArgument, reason="IDEMPOTENCY_KEY_REQUIRED"):
    """The call had no key."""


class KeyInvalid(InvalidArgument, reason="IDEMPOTENCY_KEY_INVALID"):
    """The key is not 16 to 128 of [A-Za-z0-9._:~-]."""


class KeyReused(InvalidArgument, reason="KEY_REUSED_WITH_DIFFERENT_PAYLOAD"):
    """The key was used before with another request."""


class PageTokenMismatch(InvalidArgument, reason="PAGE_TOKEN_MISMATCH"):
    """The page token belongs to another list, or is too old: start again."""


class MalformedRequest(InvalidArgument, reason="MALFORMED_REQUEST"):
    """The service does not know a field; this client is newer than it."""


class TokenInvalid(Unauthenticated, reason="TOKEN_INVALID"):
    """No token, or not one of theirs."""


class TokenExpired(Unauthenticated, reason="TOKEN_EXPIRED"):
    """The token's time is over."""


class CredentialsInvalid(Unauthenticated, reason="CREDENTIALS_INVALID"):
    """E-mail or password is wrong; which of the two is not said."""


class RoleMissing(PermissionDenied, reason="ROLE_MISSING"):
    """The user has none of the roles `wanted`."""

    @property
    def wanted(self) -> tuple[str, ...]:
        return _names(self.facts["wanted"])


class ServiceOnly(PermissionDenied, reason="SERVICE_ONLY"):
    """Only InvoChain's own services may call this."""


class InvoiceNotFound(NotFound, reason="INVOICE_NOT_FOUND"):
    """No such invoice among those the caller sold or bought."""


class ReservationNotFound(NotFound, reason="RESERVATION_NOT_FOUND"):
    """No such reservation of the caller."""


class MerchantNotFound(NotFound, reason="MERCHANT_NOT_FOUND"):
    """No such merchant."""


class DeadLetterNotFound(NotFound, reason="DEAD_LETTER_NOT_FOUND"):
    """No such dead letter. Operators only."""


class SkuNotFound(NotFound, reason="SKU_NOT_FOUND"):
    """The caller has no such SKU."""

    @property
    def sku(self) -> str:
        return self.facts["sku"]


class MethodNotFound(NotFound, reason="METHOD_NOT_FOUND"):
    """The service is older than this client."""


class NumberTaken(AlreadyExists, reason="DOC_NUMBER_DUPLICATE"):
    """The number is used in this financial year, in any case of letters."""

    @property
    def number(self) -> str:
        return self.facts["number"]


class GstinAlreadyRegistered(AlreadyExists, reason="GSTIN_ALREADY_REGISTERED"):
    """A merchant with this GSTIN is registered."""


class EmailAlreadyRegistered(AlreadyExists, reason="EMAIL_ALREADY_REGISTERED"):
    """The e-mail signs somebody else in."""


class InsufficientStock(FailedPrecondition, reason="INSUFFICIENT_STOCK"):
    """Fewer units are free than were asked for; nothing was taken. Quantities: thousandths of the unit, or units."""

    @property
    def sku(self) -> str:
        return self.facts["sku"]

    @property
    def asked_milli(self) -> int:
        return int(self.facts["asked_milli"])

    @property
    def free_milli(self) -> int:
        return int(self.facts["free_milli"])

    @property
    def asked(self) -> Decimal:
        return Decimal(self.asked_milli).scaleb(-3)

    @property
    def free(self) -> Decimal:
        return Decimal(self.free_milli).scaleb(-3)


class InvalidState(FailedPrecondition, reason="INVALID_STATE"):
    """The invoice's `state` does not allow the `action`; `allowed_actions` are what the caller may do instead."""

    @property
    def action(self) -> str:
        return self.facts["action"]

    @property
    def state(self) -> str:
        return self.facts["state"]

    @property
    def allowed_actions(self) -> tuple[str, ...]:
        return _names(self.facts["allowed_actions"])


class DeadLetterState(FailedPrecondition, reason="DEAD_LETTER_STATE"):
    """The dead letter is in a `state` other than the `wanted` one. Operators only."""

    @property
    def state(self) -> str:
        return self.facts["state"]

    @property
    def wanted(self) -> str:
        return self.facts["wanted"]


class OlderDeadLetterFirst(FailedPrecondition, reason="OLDER_DEAD_LETTER_FIRST"):
    """An older letter of the same aggregate (`dead_letter_id`) comes first. Operators only."""

    @property
    def dead_letter_id(self) -> str:
        return self.facts["dead_letter_id"]


class SecondApproverNeeded(FailedPrecondition, reason="SECOND_APPROVER_NEEDED"):
    """Whoever proposed a discard cannot approve it. Operators only."""


class CancelledByClient(FailedPrecondition, reason="CANCELLED_BY_CLIENT"):
    """The caller itself ended this key; what it was for will never be done under it."""


class ReservationGone(FailedPrecondition, reason="RESERVATION_GONE"):
    """The hold is gone."""


class ReservationHeld(FailedPrecondition, reason="RESERVATION_HELD"):
    """The hold is settled and is not given back by release."""


class UnitMismatch(FailedPrecondition, reason="UNIT_MISMATCH"):
    """The line's unit is not the one the SKU is counted in (`kept`)."""

    @property
    def sku(self) -> str:
        return self.facts["sku"]

    @property
    def asked(self) -> str:
        return self.facts["asked"]

    @property
    def kept(self) -> str:
        return self.facts["kept"]


class BatchRefused(FailedPrecondition, reason="BATCH_REFUSED"):
    """This item was right, but a neighbour in the all_or_nothing batch was refused."""


class ConcurrentRequest(Aborted, reason="CONCURRENT_REQUEST"):
    """Another call with this key is under way."""


class SagaAborted(Aborted, reason="SAGA_ABORTED"):
    """The attempt was late and was fenced off; the same key gets a fresh one."""


class VersionMismatch(Aborted, reason="VERSION_MISMATCH"):
    """The etag is not the present one: read again, then use a new key. Never repeated by itself."""

    @property
    def found(self) -> str:
        return self.facts["found"]

    @property
    def present(self) -> str:
        return self.facts["present"]


class ReservationTombstoned(Aborted, reason="RESERVATION_TOMBSTONED"):
    """The reservation was released before it was made."""


class RateLimited(ResourceExhausted, reason="RATE_LIMITED"):
    """Too many calls; `retry_after_s` says how long to wait."""


class BulkheadFull(ResourceExhausted, reason="BULKHEAD_FULL"):
    """Too much work waits over there."""


class MessageTooLarge(ResourceExhausted, reason="MESSAGE_TOO_LARGE"):
    """The request is larger than 4 MiB."""


class DependencyDown(Unavailable, reason="DEPENDENCY_DOWN"):
    """Something the service needs did not answer."""


class CircuitOpen(Unavailable, reason="CIRCUIT_OPEN"):
    """The service gives something it needs a pause."""


class ShuttingDown(Unavailable, reason="SHUTTING_DOWN"):
    """The service is stopping; another one takes the repeat."""


class DeadlineTooShort(DeadlineExceeded, reason="DEADLINE_TOO_SHORT"):
    """The time was over before the work was."""


class InternalError(Internal, reason="INTERNAL"):
    """A defect over there; `request_id` finds its log line."""


class InvariantBroken(DataLoss, reason="INVARIANT_BROKEN"):
    """An invariant is broken over there; its operators are paged."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(", ") if name)
