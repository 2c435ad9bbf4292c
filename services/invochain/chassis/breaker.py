"""A circuit breaker per target: who fails or hangs is left alone, then tried with care (PROTOCOL 13).

    CLOSED ── of >= 10 items in 10 s half are bad; or 10 are overdue and nobody was answered ──▶ OPEN
    OPEN ── 30 s (+-10 %); or, if nobody was answered, a late answer comes ──▶ HALF_OPEN
    HALF_OPEN ── of 5 trial calls 4 are good ──▶ CLOSED          ── 2 are bad ──▶ OPEN

Ten busy seconds take five to become half bad: so that a hang is seen within one, silence counts by itself. Who was
only late is tried as soon as the late answer comes.

Pure but for its clock and its timer, which come in through the door. It holds no task, so nothing can be leaked: who
never reports the end of a call is overdue, and counted so.
"""

from __future__ import annotations

import asyncio
import enum
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from invochain.chassis import clock
from invochain.chassis.telemetry import CIRCUIT_REFUSED, CIRCUIT_STATE, CIRCUIT_TRANSITIONS, log
from invochain.errors import CircuitOpen

BUCKETS = 10
BUCKET_S = 1.0
# Fewer say nothing of a target.
ITEMS_MIN = 10
# In flight for longer is bad now, not when the time-out says so: a hang is seen within a second.
OVERDUE_S = 0.8
OPEN_S = 30.0
# Processes that opened together do not try together.
OPEN_JITTER = 0.1
TRIALS = 5
TRIALS_GOOD = 4


class State(enum.IntEnum):
    """As the metric circuit_breaker_state says it."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(slots=True, eq=False)
class Permit:
    """Leave for one call of some items. What was begun under an earlier state of the breaker counts for nothing."""

    items: int
    begun: float
    era: int

    @property
    def due(self) -> float:
        return self.begun + OVERDUE_S


def _later(seconds: float, tick: Callable[[], object]) -> object:
    return asyncio.get_running_loop().call_later(seconds, tick)


class Breaker:
    """Says whether a target may be asked. Items are counted, not calls: a batch that hangs is many that hang.

    Bad: an outcome that is unknown (UNAVAILABLE, INTERNAL, DEADLINE_EXCEEDED), or in flight for 800 ms. Refusals of
    business, cancels of the caller and rejections are not counted: they say nothing of the target. `target` labels
    metrics, `what` names it in words.
    """

    def __init__(
        self,
        target: str,
        *,
        what: str = "",
        open_s: float = OPEN_S,
        now: Callable[[], float] = clock.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
        later: Callable[[float, Callable[[], object]], object] = _later,
    ) -> None:
        self.target, self.state = target, State.CLOSED
        self._what = what or target
        self._open_s, self._now, self._jitter, self._later = open_s, now, jitter, later
        # Second -> [good, bad]; at most BUCKETS of them count.
        self._buckets: dict[int, list[int]] = {}
        # In the order they are due.
        self._in_flight: dict[Permit, None] = {}
        # Calls overdue, since whose beginning nothing was answered at all: when they were due, and their items.
        self._silence: list[tuple[float, int]] = []
        self._answered_at = -math.inf
        # Open because of silence: a late answer is news.
        self._hung = False
        self._era = 0
        self._until = 0.0
        self._good = self._bad = 0
        self._log = log("chassis")
        self._refused = CIRCUIT_REFUSED.labels(target=target)
        CIRCUIT_STATE.labels(target=target).set(self.state)

    def admit(self, items: int = 1) -> Permit:
        """Leave for one call; its end is told by `ended`. Refuses: CircuitOpen, when the target is not to be asked."""
        self.tick()
        refused = self.state is State.OPEN
        if self.state is State.HALF_OPEN:
            # A trial that hangs is overdue, counted, and no longer in flight: its place is free.
            refused = len(self._in_flight) + self._good + self._bad >= TRIALS
        if refused:
            self._refused.inc(items)
            raise CircuitOpen(self._what)
        permit = Permit(items, self._now(), self._era)
        self._in_flight[permit] = None
        self._later(OVERDUE_S, self.tick)
        return permit

    def ended(self, permit: Permit, good: int, bad: int, *, answered: bool) -> None:
        """A call ended with so many items good and bad; the others are not counted. `answered`: by the target, and be
        it with a refusal."""
        self.tick()
        if self._hung and answered and permit.era == self._era - 1:
            self._turn(State.HALF_OPEN)
        if permit.era != self._era:
            return
        if answered:
            self._answered_at = self._now()
            self._silence.clear()
        if permit in self._in_flight:
            del self._in_flight[permit]
            self._count(good, bad, self._now())

    def tick(self) -> None:
        """Notices what time brings: calls that are overdue, the end of the pause."""
        now = self._now()
        if self.state is State.OPEN and now >= self._until:
            self._turn(State.HALF_OPEN)
        for permit in list(self._in_flight):
            if permit.due > now or permit.era != self._era:
                break
            del self._in_flight[permit]
            if self._answered_at <= permit.begun:
                self._silence.append((permit.due, permit.items))
            self._count(0, permit.items, permit.due)

    def _count(self, good: int, bad: int, at: float) -> None:
        if not good + bad:
            return
        if self.state is State.HALF_OPEN:
            # A trial is one call, whatever it carries.
            failed = bad * 2 >= good + bad
            self._good, self._bad = self._good + (not failed), self._bad + failed
            if self._good >= TRIALS_GOOD:
                self._turn(State.CLOSED)
            elif self._bad > TRIALS - TRIALS_GOOD:
                self._turn(State.OPEN)
            return
        bucket = self._buckets.setdefault(int(at / BUCKET_S), [0, 0])
        bucket[0] += good
        bucket[1] += bad
        oldest = int(self._now() / BUCKET_S) - BUCKETS
        self._buckets = {second: counts for second, counts in self._buckets.items() if second > oldest}
        good, bad = (sum(counts[i] for counts in self._buckets.values()) for i in (0, 1))
        self._silence = [(due, items) for due, items in self._silence if due > self._now() - BUCKETS * BUCKET_S]
        silent = sum(items for _, items in self._silence)
        if (good + bad >= ITEMS_MIN and bad * 2 >= good + bad) or silent >= ITEMS_MIN:
            self._turn(State.OPEN, good=good, bad=bad, silent=silent)
            self._hung = silent >= ITEMS_MIN

    def _turn(self, to: State, **why: int) -> None:
        before, self.state = self.state, to
        self._era += 1
        self._buckets.clear()
        self._in_flight.clear()
        self._silence.clear()
        self._hung = False
        self._good = self._bad = 0
        if to is State.OPEN:
            pause = self._open_s * self._jitter(1 - OPEN_JITTER, 1 + OPEN_JITTER)
            self._until = self._now() + pause
            self._later(pause, self.tick)
        CIRCUIT_STATE.labels(target=self.target).set(to)
        CIRCUIT_TRANSITIONS.labels(target=self.target, to=to.name).inc()
        self._log.warning("circuit_breaker", target=self.target, was=before.name, now=to.name, **why)
