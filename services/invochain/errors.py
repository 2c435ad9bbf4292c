"""Refusals: what a call is told when it is not done, and how that is said on the wire.

A refusal is a class with its gRPC code, its reason (`invochain.api.shared.v1.ErrorReason`), whether and how to try
again, and its facts; the message is formatted from the same facts, so nobody parses prose. Shared ones live here, the
others beside the use case that raises them. On the wire: `google.rpc.Status` with exactly one `ErrorInfo`
(domain "invochain") and what else fits (API section 7). Source: PROTOCOL section 13.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import ClassVar

from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN = "invochain"


class Code(enum.IntEnum):
    """gRPC status codes that we answer with."""

    CANCELLED = code_pb2.CANCELLED
    UNKNOWN = code_pb2.UNKNOWN
    INVALID_ARGUMENT = code_pb2.INVALID_ARGUMENT
    DEADLINE_EXCEEDED = code_pb2.DEADLINE_EXCEEDED
    NOT_FOUND = code_pb2.NOT_FOUND
    ALREADY_EXISTS = code_pb2.ALREADY_EXISTS
    PERMISSION_DENIED = code_pb2.PERMISSION_DENIED
    RESOURCE_EXHAUSTED = code_pb2.RESOURCE_EXHAUSTED
    FAILED_PRECONDITION = code_pb2.FAILED_PRECONDITION
    ABORTED = code_pb2.ABORTED
    INTERNAL = code_pb2.INTERNAL
    UNAVAILABLE = code_pb2.UNAVAILABLE
    DATA_LOSS = code_pb2.DATA_LOSS
    UNAUTHENTICATED = code_pb2.UNAUTHENTICATED
    UNIMPLEMENTED = code_pb2.UNIMPLEMENTED


class Retry(enum.Enum):
    """What the caller does next."""

    NEVER = "never"
    AFTER_CORRECTION = "after_correction"
    WITH_NEW_KEY = "with_new_key"
    SAME_KEY_SOON = "same_key_soon"  # RetryInfo 100 to 300 ms
    SAME_KEY_LATER = "same_key_later"  # RetryInfo about 1 s


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One broken rule: proto path (`invoice.lines[2].hsn`), code of the rule, words."""

    field: str
    code: str
    description: str


class Refusal(Exception):
    """Base of all refusals. Subclasses are dataclasses whose fields are the facts."""

    code: ClassVar[Code] = Code.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    retry: ClassVar[Retry] = Retry.NEVER
    message: ClassVar[str] = "internal error"

    def __str__(self) -> str:
        return self.message.format(**self.facts())

    def facts(self) -> dict[str, object]:
        """What it is about, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)} if is_dataclass(self) else {}

    def violations(self) -> Sequence[FieldViolation]:
        return ()

    def to_status(self) -> status_pb2.Status:
        """The refusal as it goes over the wire and into the decision row."""
        facts = {name: _text(value) for name, value in self.facts().items() if name != "broken"}
        details = [_pack(error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=facts))]
        if violations := self.violations():
            details.append(
                _pack(
                    error_details_pb2.BadRequest(
                        field_violations=[
                            error_details_pb2.BadRequest.FieldViolation(
                                field=v.field, reason=v.code, description=v.description
                            )
                            for v in violations
                        ]
                    )
                )
            )
        if self.retry in (Retry.SAME_KEY_SOON, Retry.SAME_KEY_LATER):
            low, high = (100, 300) if self.retry is Retry.SAME_KEY_SOON else (700, 1_300)
            delay = duration_pb2.Duration(nanos=0)
            delay.FromMilliseconds(random.randint(low, high))
            details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
        return status_pb2.Status(code=int(self.code), message=str(self), details=details)


class Told(Refusal):
    """A refusal that was made elsewhere: by a peer, or stored in a decision row. Passed on as it is."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status
        self.code = Code(status.code)  # type: ignore[misc]
        self.reason = reason_of(status)  # type: ignore[misc]

    def __str__(self) -> str:
        return str(self.status.message)

    def to_status(self) -> status_pb2.Status:
        return self.status

    @classmethod
    def from_bytes(cls, raw: bytes) -> Told:
        return cls(status_pb2.Status.FromString(raw))


def reason_of(status: status_pb2.Status) -> str:
    """The ErrorInfo reason of a status, or the name of its code."""
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return str(code_pb2.Code.Name(status.code))


def facts_of(status: status_pb2.Status) -> dict[str, str]:
    """The ErrorInfo metadata of a status."""
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return dict(info.metadata)
    return {}


def _pack(message) -> any_pb2.Any:  # type: ignore[no-untyped-def]
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _text(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(str(v) for v in value)
    return str(value)


# ---------------------------------------------------------------- INVALID_ARGUMENT: nothing done, no key used up


@dataclass(eq=False)
class ValidationFailed(Refusal):
    """One or more rules are broken; all of the first phase that has any are listed."""

    code, reason, retry = Code.INVALID_ARGUMENT, "VALIDATION_FAILED", Retry.AFTER_CORRECTION
    broken: Sequence[FieldViolation]

    def __str__(self) -> str:
        first = self.broken[0]
        more = f" (and {len(self.broken) - 1} more)" if len(self.broken) > 1 else ""
        return f"{first.field}: {first.description}{more}"

    def violations(self) -> Sequence[FieldViolation]:
        return self.broken


def invalid(field: str, code: str, description: str) -> ValidationFailed:
    """A refusal of one field."""
    return ValidationFailed([FieldViolation(field, code, description)])


@dataclass(eq=False)
class KeyRequired(Refusal):
    code, reason, retry = Code.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_REQUIRED", Retry.AFTER_CORRECTION
    message = "metadata idempotency-key is missing; send 16 to 128 of [A-Za-z0-9._:~-], for choice a UUID"


@dataclass(eq=False)
class KeyInvalid(Refusal):
    code, reason, retry = Code.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_INVALID", Retry.AFTER_CORRECTION
    message = "idempotency-key has {length} characters or one outside [A-Za-z0-9._:~-]; 16 to 128 of those are wanted"
    length: int


@dataclass(eq=False)
class KeyReused(Refusal):
    code, reason, retry = Code.INVALID_ARGUMENT, "KEY_REUSED_WITH_DIFFERENT_PAYLOAD", Retry.WITH_NEW_KEY
    message = "this idempotency-key was used before with another request body; use a new key for a new request"


@dataclass(eq=False)
class MalformedRequest(Refusal):
    code, reason, retry = Code.INVALID_ARGUMENT, "MALFORMED_REQUEST", Retry.AFTER_CORRECTION
    message = "{what}"
    what: str


@dataclass(eq=False)
class PageTokenMismatch(Refusal):
    code, reason, retry = Code.INVALID_ARGUMENT, "PAGE_TOKEN_MISMATCH", Retry.AFTER_CORRECTION
    message = "page_token is {what}; start again without one"
    what: str


# ---------------------------------------------------------------- who is calling


@dataclass(eq=False)
class TokenInvalid(Refusal):
    code, reason, retry = Code.UNAUTHENTICATED, "TOKEN_INVALID", Retry.AFTER_CORRECTION
    message = "no valid access token; sign in and send it as `authorization: Bearer ...`"


@dataclass(eq=False)
class TokenExpired(Refusal):
    code, reason, retry = Code.UNAUTHENTICATED, "TOKEN_EXPIRED", Retry.AFTER_CORRECTION
    message = "the token has expired; refresh it or sign in again"


@dataclass(eq=False)
class RoleMissing(Refusal):
    code, reason, retry = Code.PERMISSION_DENIED, "ROLE_MISSING", Retry.AFTER_CORRECTION
    message = "this needs one of the roles {wanted}"
    wanted: Sequence[str]

    def __str__(self) -> str:
        return f"this needs one of the roles {', '.join(self.wanted)}"


@dataclass(eq=False)
class ServiceOnly(Refusal):
    code, reason, retry = Code.PERMISSION_DENIED, "SERVICE_ONLY", Retry.NEVER
    message = "{what} is for InvoChain services only"
    what: str


# ---------------------------------------------------------------- not done by this call: same key again


@dataclass(eq=False)
class ConcurrentRequest(Refusal):
    code, reason, retry = Code.ABORTED, "CONCURRENT_REQUEST", Retry.SAME_KEY_SOON
    message = "another request with this idempotency-key is under way"


@dataclass(eq=False)
class SagaAborted(Refusal):
    code, reason, retry = Code.ABORTED, "SAGA_ABORTED", Retry.SAME_KEY_SOON
    message = "this attempt was too late and was fenced off; repeat with the same key"


@dataclass(eq=False)
class VersionMismatch(Refusal):
    code, reason, retry = Code.ABORTED, "VERSION_MISMATCH", Retry.WITH_NEW_KEY
    message = "the etag is {found}, the present one is {present}; read again, then use a new key"
    found: str
    present: str


@dataclass(eq=False)
class BulkheadFull(Refusal):
    code, reason, retry = Code.RESOURCE_EXHAUSTED, "BULKHEAD_FULL", Retry.SAME_KEY_LATER
    message = "too much work is waiting for {what}"
    what: str


@dataclass(eq=False)
class RateLimited(Refusal):
    code, reason, retry = Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", Retry.SAME_KEY_LATER
    message = "too many requests of this {scope}"
    scope: str


@dataclass(eq=False)
class DependencyDown(Refusal):
    """The outcome is unknown (PROTOCOL R8)."""

    code, reason, retry = Code.UNAVAILABLE, "DEPENDENCY_DOWN", Retry.SAME_KEY_LATER
    message = "{what} did not answer; the outcome is unknown, repeat with the same key"
    what: str


@dataclass(eq=False)
class CircuitOpen(DependencyDown):
    """Nothing was sent: what failed or hung a moment ago is left alone for a while (PROTOCOL 13)."""

    reason = "CIRCUIT_OPEN"
    message = "{what} did not answer others and is not asked for now; repeat with the same key"


@dataclass(eq=False)
class ShuttingDown(Refusal):
    code, reason, retry = Code.UNAVAILABLE, "SHUTTING_DOWN", Retry.SAME_KEY_SOON
    message = "this process is stopping; repeat with the same key"


@dataclass(eq=False)
class DeadlineTooShort(Refusal):
    code, reason, retry = Code.DEADLINE_EXCEEDED, "DEADLINE_TOO_SHORT", Retry.SAME_KEY_LATER
    message = "the deadline passed {where}; the outcome is unknown, repeat with the same key"
    where: str


@dataclass(eq=False)
class InternalError(Refusal):
    code, reason, retry = Code.INTERNAL, "INTERNAL", Retry.SAME_KEY_LATER
    message = "internal error; request_id {request_id} finds the log line"
    request_id: str


@dataclass(eq=False)
class InvariantBroken(Refusal):
    code, reason, retry = Code.DATA_LOSS, "INVARIANT_BROKEN", Retry.NEVER
    message = "an invariant is broken: {what}"
    what: str
