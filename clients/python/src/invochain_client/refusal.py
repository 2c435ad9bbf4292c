"""A failed call as data: google.rpc.Status with its details, read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc
from google.rpc import error_details_pb2, status_pb2

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
