"""What may be repeated, when, and how often (PROTOCOL 13). Decides; does nothing.

Repeated with the same key: UNAVAILABLE and DEADLINE_EXCEEDED (the key makes that harmless), ABORTED and
RESOURCE_EXHAUSTED where the server says after how long (RetryInfo). Never: VERSION_MISMATCH, refusals by rule or state.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from invochain_client.refusal import Refusal

NO_ANSWER = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})
ON_REQUEST = frozenset({"ABORTED", "RESOURCE_EXHAUSTED"})
# After these the change may have been made.
UNKNOWN = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "UNKNOWN"})
# Refusals that are kept for the key: whatever earlier attempts met, the change was not and will not be made under it.
FINAL = frozenset({"FAILED_PRECONDITION", "ALREADY_EXISTS", "NOT_FOUND"})


@dataclass(frozen=True, slots=True)
class Timing:
    """How long and how often. Seconds."""

    # One attempt. A service gives up after 4.8 s.
    attempt_s: float = 5.0
    # A call with all its attempts and pauses; `timeout_s` of a call overrides it.
    call_s: float = 20.0
    attempts_max: int = 6
    # Pauses are drawn from 0 to backoff_first_s, doubling up to backoff_max_s (full jitter).
    backoff_first_s: float = 0.1
    backoff_max_s: float = 2.0
    # An access token (15 minutes) is renewed this long before its end.
    renew_before_s: float = 60.0

    def __post_init__(self) -> None:
        wrong = [f"{name} is {value}" for name in self.__slots__ if (value := getattr(self, name)) <= 0]
        if wrong:
            raise ValueError(f"Timing wants numbers above 0; {', '.join(wrong)}")


class Budget:
    """Keeps repeats from drowning a service in trouble (gRPC A6): a bucket of 10, -1 for each attempt without an
    answer, +0.1 for each answer, and no repeats while it is half empty. One for each service; threads share it."""

    # In tenths.
    MAX, EARNED, COST = 100, 1, 10

    def __init__(self) -> None:
        self._tenths = self.MAX
        self._lock = threading.Lock()

    def answered(self) -> None:
        with self._lock:
            self._tenths = min(self.MAX, self._tenths + self.EARNED)

    def unanswered(self) -> None:
        with self._lock:
            self._tenths = max(0, self._tenths - self.COST)

    @property
    def allows(self) -> bool:
        return self._tenths > self.MAX // 2


def may_repeat(refusal: Refusal) -> bool:
    """Whether the same call with the same key may do better."""
    if refusal.code in ON_REQUEST:
        return refusal.retry_after_s is not None and refusal.reason != "VERSION_MISMATCH"
    return refusal.code in NO_ANSWER


def in_trouble(refusal: Refusal) -> bool:
    """Whether the service could not serve. An orderly ABORTED of a busy key is no trouble."""
    return refusal.code in NO_ANSWER or refusal.code == "RESOURCE_EXHAUSTED"


def pause_s(refusal: Refusal, attempt: int, timing: Timing, random: Callable[[], float]) -> float:
    """How long to wait after attempt number `attempt` (from 1): what the server asks for, and full jitter on top."""
    ceiling_s: float = min(timing.backoff_max_s, timing.backoff_first_s * 2 ** (attempt - 1))
    return (refusal.retry_after_s or 0.0) + random() * ceiling_s
