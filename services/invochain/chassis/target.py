"""What stands between us and a service that may fail: bulkhead, breaker, retry budget, and the time that is left.

One for each service that callers wait for. It knows nothing of transports: `send(timeout_s)` asks once. Background
work (confirm, resolve) does not pass here: it has a pace of its own, nobody waits for it, and it must be the first to
find the target well again. Source: PROTOCOL 13.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from invochain.chassis import clock
from invochain.chassis.batch import let_the_next_begin
from invochain.chassis.breaker import Breaker, State
from invochain.chassis.telemetry import BULKHEAD_IN_FLIGHT, BULKHEAD_REFUSED, RETRIES, RETRY_TOKENS
from invochain.errors import BulkheadFull, Code, DependencyDown, Refusal

Answer = TypeVar("Answer")

IN_FLIGHT_MAX = 64
BULKHEAD_WAIT_S = 0.2
# Less left than this, and a second try could not end in time.
RETRY_NEEDS_S = 2.0
RETRY_AFTER_S = (0.05, 0.15)
# Whoever waits for a batch waits no longer than this for a target that does not answer: the next batch then begins
# beside it. Far above a healthy answer, half of what makes a call overdue: so a hang is seen by ten calls in time.
STALLED_S = 0.4

TOKENS_MAX = 10.0
TOKENS_OF_SUCCESS = 0.1

UNKNOWN = frozenset({Code.UNAVAILABLE, Code.INTERNAL, Code.DEADLINE_EXCEEDED, Code.UNKNOWN, Code.CANCELLED})


class RetryBudget:
    """How many retries a target gets: 10 tokens, one less for each failure, a tenth more for each success; retries
    only while more than half are there (gRPC A6). So a target that is down gets no storm from us."""

    def __init__(self, target: str) -> None:
        self._tokens = TOKENS_MAX
        self._gauge = RETRY_TOKENS.labels(target=target)
        self._gauge.set(self._tokens)
        self._sent, self._forgone = (RETRIES.labels(target=target, outcome=way) for way in ("sent", "forgone"))

    def succeeded(self) -> None:
        self._put(min(TOKENS_MAX, self._tokens + TOKENS_OF_SUCCESS))

    def failed(self) -> None:
        self._put(max(0.0, self._tokens - 1))

    def allows(self) -> bool:
        """Whether one more try may be made now; it is counted either way."""
        allowed = self._tokens > TOKENS_MAX / 2
        (self._sent if allowed else self._forgone).inc()
        return allowed

    def _put(self, tokens: float) -> None:
        self._tokens = tokens
        self._gauge.set(tokens)


class Target:
    """One service that we ask and wait for. `retries`: once more after an unknown outcome, if time is left."""

    def __init__(self, breaker: Breaker, *, retries: bool) -> None:
        name = breaker.target
        self.breaker, self._name = breaker, name
        self._budget = RetryBudget(name) if retries else None
        self._bulkhead = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._in_flight = BULKHEAD_IN_FLIGHT.labels(target=name)
        self._refused = BULKHEAD_REFUSED.labels(target=name)

    async def ask(
        self,
        send: Callable[[float], Awaitable[Answer]],
        *,
        timeout_s: float,
        time_left_s: float,
        items: int = 1,
        count: Callable[[Answer], tuple[int, int]] | None = None,
    ) -> Answer:
        """Asks, within `time_left_s` altogether and `timeout_s` a try. `count`: good and bad items of an answer.

        Refuses: CircuitOpen and BulkheadFull, when nothing was sent; DependencyDown, when the outcome is unknown; what
        the target refuses.
        """
        until = clock.monotonic() + time_left_s
        try:
            async with asyncio.timeout(min(BULKHEAD_WAIT_S, time_left_s)):
                await self._bulkhead.acquire()
        except TimeoutError:
            self._refused.inc()
            raise BulkheadFull(self._name) from None
        self._in_flight.inc()
        try:
            try:
                return await self._once(send, min(timeout_s, until - clock.monotonic()), items, count)
            except DependencyDown:
                if until - clock.monotonic() < RETRY_NEEDS_S or self.breaker.state is not State.CLOSED:
                    raise
                if self._budget is None or not self._budget.allows():
                    raise
                await asyncio.sleep(random.uniform(*RETRY_AFTER_S))
                if self.breaker.state is not State.CLOSED:
                    # Not CircuitOpen: the first try may have been received.
                    raise
                return await self._once(send, min(timeout_s, until - clock.monotonic()), items, count)
        finally:
            self._in_flight.dec()
            self._bulkhead.release()

    async def _once(
        self,
        send: Callable[[float], Awaitable[Answer]],
        timeout_s: float,
        items: int,
        count: Callable[[Answer], tuple[int, int]] | None,
    ) -> Answer:
        permit = self.breaker.admit(items)
        # Who tries a target that was found hanging keeps nobody waiting behind him.
        patience_s = STALLED_S if self.breaker.state is State.CLOSED else 0.0
        stalled = asyncio.get_running_loop().call_later(patience_s, let_the_next_begin)
        good, bad, answered = 0, 0, False
        try:
            answer = await send(timeout_s)
            answered = True
            good, bad = count(answer) if count else (items, 0)
            if self._budget:
                self._budget.succeeded()
            return answer
        except Refusal as refusal:
            answered = refusal.code not in UNKNOWN
            if not answered:
                bad = items
                if self._budget:
                    self._budget.failed()
            raise
        finally:
            stalled.cancel()
            self.breaker.ended(permit, good, bad, answered=answered)
