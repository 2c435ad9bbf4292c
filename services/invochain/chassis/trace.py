"""W3C trace context (https://www.w3.org/TR/trace-context/): carried over every hop and into events."""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import NamedTuple

from invochain.chassis.ids import random_bytes

_TRACEPARENT = re.compile(r"^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$")


class Trace(NamedTuple):
    """One hop of a trace."""

    trace_id: str
    span_id: str
    flags: str = "01"

    @classmethod
    def start(cls) -> Trace:
        fresh = random_bytes(24).hex()
        return cls(fresh[:32], fresh[32:])

    @classmethod
    def follow(cls, traceparent: str) -> Trace:
        """The next hop of the caller's trace, or a new trace if theirs does not read as one."""
        match = _TRACEPARENT.match(traceparent) if traceparent else None
        if not match or match[1] == "0" * 32 or match[2] == "0" * 16:
            return cls.start()
        return cls(match[1], random_bytes(8).hex(), match[3])

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def trace_id_of(traceparent: str) -> str:
    """The trace that something was caused by; empty where none is named."""
    match = _TRACEPARENT.match(traceparent)
    return match[1] if match else ""


current: ContextVar[Trace | None] = ContextVar("trace", default=None)
