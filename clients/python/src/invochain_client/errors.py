"""What InvoChain refuses, one class a reason, in a tree by gRPC code: catch as finely as you need.

    try: client.invoices.create(invoice)
    except InsufficientStock as short: order_more(short.sku, short.asked_milli - short.free_milli)
    except ValidationFailed as bad: show(bad.violations)
    except OutcomeUnknown as unknown: later(unknown.key)

Every reason of the contract's ErrorReason has a class here (a test holds the two to each other); a reason that this
release does not know yet is told by the class of its code. Switch on classes or on `reason`; messages may change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

import grpc
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from invochain_client.calling import Fate

DOMAIN = "invochain"


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule: proto path (`invoice.lines[2].hsn`), code of the rule, words."""

    field: str
    code: str
    description: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A failed call as it came over the wire."""

    # Name of the gRPC status code.
    code: str
    message: str
    # Name in ErrorReason; empty when no InvoChain service answered.
    reason: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[Violation, ...] = ()
    # How long the server asks to wait before the same call with the same key, seconds.
    retry_after_s: float | None = None
    # Finds the log lines.
    request_id: str = ""
    # The refusal was decided by an earlier call with this key.
    replayed: bool = False


def read(status: status_pb2.Status, *, request_id: str = "", replayed: bool = False) -> Refusal:
    """A refusal from google.rpc.Status."""
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    reason, wait_s = "", None
    facts: dict[str, str] = {}
    violations: tuple[Violation, ...] = ()
    for detail in status.details:
        if detail.Unpack(info) and info.domain == DOMAIN:
            reason, facts = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            violations = tuple(Violation(v.field, v.reason, v.description) for v in bad.field_violations)
        elif detail.Unpack(retry):
            # The last one counts: a wait that the refusal itself knows is put behind the usual one.
            wait_s = retry.retry_delay.ToMilliseconds() / 1_000
    code = _CODE_NAMES.get(status.code, "UNKNOWN")
    return Refusal(code, status.message, reason, facts, violations, wait_s, request_id, replayed)


_CODE_NAMES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}


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
        """Every broken rule; empty but for ValidationFailed."""
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
    """Rules are broken; `violations` lists all of them."""

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


# ---------------------------------------------------------------- neither yes nor no


class OutcomeUnknown(InvochainError):
    """The change may have been made or not: some attempt had no answer, and repeating it came to no answer either.

    Keep `key` with what the call was for. The same call with the same key, at any later time, finds out (and does it if
    it was not done); `resolve` asks now. `__cause__` is the last failure.
    """

    def __init__(self, cause: InvochainError, operation: str, key: str, fate: Fate, *, blocking: bool) -> None:
        super().__init__(cause.refusal)
        self.cause = cause
        # For example invoice.create.
        self.operation = operation
        # The idempotency key; empty for a call that takes none.
        self.key = key
        self._fate, self._blocking = fate, blocking

    def __str__(self) -> str:
        key = f" with the key {self.key}" if self.key else ""
        return f"it is not known whether {self.operation}{key} was done; repeat it with this key ({self.cause})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The way to ask is bound to open channels: elsewhere, the same call with the same key finds out.
        return (_told_elsewhere, (self.cause, self.operation, self.key))

    def resolve(self, *, cancel: bool = False) -> Any:
        """Finds out: the Answer if it was done; raises the refusal if it was refused for good.

        What GetOperation knows (invoice.*) is asked, without doing it; if nothing is decided yet, OutcomeUnknown is
        raised again, or, with `cancel`, the key is ended for good and CancelledByClient raised: then it was not and
        never will be done. Other operations are repeated with the same key, and cannot be cancelled (ValueError).
        Where nobody can be asked, that is raised: Unavailable, DeadlineExceeded.
        """
        if not self._blocking:
            raise TypeError("this was raised by an AsyncClient: await resolve_async() instead")
        from invochain_client.blocking import run_now

        return run_now(self._ask(cancel))

    async def resolve_async(self, *, cancel: bool = False) -> Any:
        """`resolve` for what an AsyncClient raised."""
        if self._blocking:
            raise TypeError("this was raised by a Client: call resolve() instead")
        return await self._ask(cancel)

    async def _ask(self, cancel: bool) -> Any:
        try:
            return await self._fate(cancel)
        except Undecided:
            raise self  # noqa: B904 - its cause stays the failure it began with


class Undecided(Exception):
    """GetOperation knows of no decision. Seen inside OutcomeUnknown only."""


def _told_elsewhere(cause: InvochainError, operation: str, key: str) -> OutcomeUnknown:
    async def fate(cancel: bool) -> Any:
        raise TypeError(f"this came from another process: repeat {operation} with the key {key!r}")

    return OutcomeUnknown(cause, operation, key, fate, blocking=True)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(", ") if name)
