"""Experiment C: the inventory answers after ten seconds.

Requests fail UNAVAILABLE within the handler's budget; the breaker opens within a second of the tenth call that is
overdue; from then on callers are told at once. Trials that hang open it again. When the inventory answers as it used
to, the breaker closes by itself, what was held late is settled, and no invoice is without its stock.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from invochain.chassis.breaker import OVERDUE_S, State
from tests.chaos import books
from tests.chaos.doors import Answer, Door, GrpcDoor
from tests.chaos.experiment import PATIENCE_S, Experiment, Field
from tests.chaos.figures import Figures

LINK = "invoice>inventory"
EACH_WAY_S = 5.0
HANDLER_S, OPENS_WITHIN_S = 4.8, 1.0
# The promise holds on a quiet machine, which is the long form's.
FAIL_FAST_S = {False: 1.0, True: 0.1}


class Breaker:
    """What the invoice process's breaker did since now, from its log: passive, so that looking costs it nothing."""

    def __init__(self, run: Experiment) -> None:
        self._log = run.processes.folder / "invoice.log"
        self._from = self._log.stat().st_size
        self._monotonic_since = time.time() - time.monotonic()

    def turned(self) -> list[tuple[float, State]]:
        """Each change: when, by the monotonic clock, and to what."""
        found = []
        for line in self._log.read_bytes()[self._from :].splitlines():
            if b'"circuit_breaker"' in line and (told := json.loads(line))["target"] == "inventory":
                at = datetime.fromisoformat(told["time"]).timestamp() - self._monotonic_since
                found.append((at, State[told["now"]]))
        return found

    def refused_p99_s(self) -> float:
        """How long the service itself took to tell creations that the breaker is open."""
        took = sorted(
            json.loads(line)["ms"] / 1_000
            for line in self._log.read_bytes()[self._from :].splitlines()
            if b'"reason": "CIRCUIT_OPEN"' in line and b'"method": "CreateInvoice"' in line and line.endswith(b"}")
        )
        return took[len(took) * 99 // 100]

    async def reached(self, state: State, times: int, within_s: float) -> float:
        """Waits until it has come to a state so many times; when it did."""
        async with asyncio.timeout(within_s):
            while len(when := [at for at, to in self.turned() if to is state]) < times:
                await asyncio.sleep(0.02)
        return when[times - 1]


@dataclass
class Asked:
    """One request as its client saw it; times by the monotonic clock."""

    begun: float
    ended: float = 0.0
    answer: Answer | None = None

    @property
    def took(self) -> float:
        return self.ended - self.begun


@dataclass
class TimedDoor:
    """Notes when each creation began and ended."""

    door: Door
    asked: list[Asked] = field(default_factory=list)

    async def create(self, request, who, key) -> Answer:
        one = Asked(time.monotonic())
        self.asked.append(one)
        try:
            one.answer = await self.door.create(request, who, key)
            return one.answer
        finally:
            one.ended = time.monotonic()

    async def move(self, move, invoice_id, who, key) -> Answer:
        return await self.door.move(move, invoice_id, who, key)

    def tenth_overdue(self, since: float) -> float:
        """When the tenth call was in flight for 800 ms, counted from its client."""
        late = [a.begun + OVERDUE_S for a in self.asked if not a.ended or a.took > OVERDUE_S]
        return sorted(at for at in late if at > since)[9]

    def refused_at_once(self, since: float, until: float) -> list[float]:
        """How long those waited who were told that the breaker is open."""
        return sorted(
            a.took
            for a in self.asked
            if since < a.begun < until and a.answer and a.answer.text == "UNAVAILABLE CIRCUIT_OPEN"
        )


async def left_behind(run: Experiment, within_s: float) -> int:
    """Waits until holds are there that nobody waits for any more; how many."""
    async with asyncio.timeout(within_s):
        while not (found := (await books.pending_by_row(run.market, run.seller))["UNDECIDED"]):
            await asyncio.sleep(0.05)
    return len(found)


@pytest.mark.timeout(600)
async def test_an_inventory_that_takes_ten_seconds_is_left_alone_and_found_again(field: Field, figures: Figures):
    """Before, during and after; the pause of the breaker is 3 s in the short form, 30 s in the full one."""
    door = TimedDoor(GrpcDoor(field.market))
    pause_s = 1.1 * (30 if field.full else 3)
    async with Experiment(field, "C inventory takes 10 s", door) as run:
        link, breaker = run.links[LINK], Breaker(run)
        delayed = link.did["delayed"]
        link.delay(EACH_WAY_S)
        began = time.monotonic()

        opened = await breaker.reached(State.OPEN, 1, PATIENCE_S)
        run.measured("opened after the tenth overdue", opened - door.tenth_overdue(began), OPENS_WITHIN_S)
        # Trials hang as all did before them, and keep nobody waiting.
        await breaker.reached(State.OPEN, 2, PATIENCE_S + pause_s)
        await run.traffic.unanswered(run.clients, PATIENCE_S)
        fast = door.refused_at_once(opened, time.monotonic())
        assert fast, "void: nobody was told that the breaker is open"
        run.notes.append(f"by the service's own clock p99 {1_000 * breaker.refused_p99_s():.1f} ms")
        run.measured("fail-fast p99", fast[int(len(fast) * 0.99)], FAIL_FAST_S[field.full])
        run.notes.append(f"p50 {1_000 * fast[len(fast) // 2]:.1f} ms, p99 {1_000 * fast[int(len(fast) * 0.99)]:.1f} ms")
        run.happened("delayed messages", link.did["delayed"] - delayed)
        run.happened("breaker opened", len([to for _, to in breaker.turned() if to is State.OPEN]))

        # They come after five seconds, for requests that have long failed.
        run.happened("holds left behind", await left_behind(run, PATIENCE_S))
        link.heal()
        healed = time.monotonic()
        # After its pause trials are let through; those before them may be five seconds old.
        closes_s = pause_s + (5 if field.full else 15)
        run.measured("closed", await breaker.reached(State.CLOSED, 1, PATIENCE_S + pause_s) - healed, closes_s)
        await run.first_success(healed, closes_s)
        await run.settled(healed, 32.0)
        slowest = max(a.took for a in door.asked if a.ended)
        # The client's own clock: what the network and a busy machine add to the handler's budget is not the handler's.
        run.measured("slowest answer", slowest, HANDLER_S + 0.2)
        figures.headlines[f"breaker{'' if field.full else ' (short)'}"] = "; ".join(map(str, [*run.times, *run.notes]))
        await run.verdict()
