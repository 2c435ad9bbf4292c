"""Looks at the invariants of PROTOCOL 15 all the time, a piece at a time, and raises the alarm (check/README.md).

What it finds stands beside the other dead letters (RECONCILE, in the invoice service's room) until a complete look does
not find it any more: nobody can repair it but an operator, and he is told as of everything else that waits for him.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence

from prometheus_client import Gauge

from invochain.chassis import clock
from invochain.chassis.call import NOBODY
from invochain.chassis.postgres import Postgres
from invochain.chassis.settings import Settings
from invochain.chassis.telemetry import log
from invochain.check.check_all import LAG_S, Found, look
from invochain.check.rule import Rule
from invochain.check.rules import RULES
from invochain.check.snapshot import Databases
from invochain.durable import dead_letters
from invochain.durable.dead_letters import Failed
from invochain.errors import InvariantBroken
from invochain.workers import Worker
from invochain.workers.rooms import Rooms

INTERVAL_S = 60.0
# A round of the runner is cut off after 60 s; a sweep over a large table takes several rounds.
ROUND_S = 20.0
# After each page, so many times as long as the page took: a tenth of one connection's time at most is ours, for what is
# sold meanwhile must not feel a look that lasts for hours (a fifth cost 10 of 100 invoices a second on two cores).
PAUSES = 9
# An example names some ids.
SUBJECT_CHARS_MAX = 500

VIOLATIONS = Gauge("invariant_violations", "What breaks an invariant, in its newest complete look", ["invariant"])
SECONDS = Gauge("invariant_check_seconds", "How long the newest complete look took", ["invariant"])
ROWS = Gauge("invariant_rows_checked", "Rows of the newest complete look", ["invariant"])
CHECKED = Gauge("invariant_last_check_timestamp_seconds", "When a look was last complete", ["invariant"])


class Checker:
    """The loop. A sweep looks at every rule once; between sweeps it rests."""

    name, room = "checker", "invoice"
    interval_s = INTERVAL_S
    # A round takes longer than a stop should, and a sweep that is cut off is begun anew.
    cut_off_at_stop = True

    def __init__(
        self, databases: Databases, letters: Postgres, lag_s: float = LAG_S, rules: Sequence[Rule] = RULES
    ) -> None:
        self._databases, self._letters, self._lag_s = databases, letters, lag_s
        self._rules = [rule for rule in rules if rule.probes]
        self._next = 0
        # A look that goes on in the next round, and what it has found so far.
        self._looking: tuple[AsyncIterator[Found], Found | None] | None = None
        # Until when the newest page's pause lasts, perhaps for some rounds.
        self._rests_until = -math.inf
        self._log = log("workers")

    async def run_once(self) -> int:
        """Looks on where the last round stopped, for some 20 s; returns 0 at the end of a sweep."""
        until = clock.monotonic() + ROUND_S
        if not await self._rested(until):
            return 1
        while self._next < len(self._rules):
            if not await self._look(self._rules[self._next], until):
                return 1
            self._next += 1
        self._next = 0
        return 0

    async def _look(self, rule: Rule, until: float) -> bool:
        """Looks on at one rule; True when that is done. A rule that cannot be looked at is left for the next sweep."""
        found: Found | None = None
        try:
            (looking, found), self._looking = self._looking or (look(self._databases, rule, self._lag_s), None), None
            while True:
                started = clock.monotonic()
                found = await anext(looking)
                if found.violations:
                    # At once: the rest of a large table may take a while.
                    VIOLATIONS.labels(invariant=rule.name).set(found.violations)
                self._rests_until = clock.monotonic() + PAUSES * (clock.monotonic() - started)
                if not await self._rested(until):
                    self._looking = looking, found
                    return False
        except StopAsyncIteration:
            if found is not None:
                self._tell(found)
                await self._write(found)
            return True
        except BaseException:
            # Also when the runner cuts the round off: a rule that hangs must not keep the others from being looked at.
            self._next += 1
            raise

    async def _rested(self, until: float) -> bool:
        """Waits for the end of the newest page's pause; False: it is not in this round."""
        if over := self._rests_until < until:
            await asyncio.sleep(self._rests_until - clock.monotonic())
        else:
            await asyncio.sleep(until - clock.monotonic())
        return over

    def _tell(self, found: Found) -> None:
        name = found.rule.name
        VIOLATIONS.labels(invariant=name).set(found.violations)
        SECONDS.labels(invariant=name).set(found.seconds)
        ROWS.labels(invariant=name).set(found.rows)
        CHECKED.labels(invariant=name).set(clock.now().timestamp())
        if found.violations:
            self._log.error(
                "invariant_broken",
                invariant=name,
                says=found.rule.says,
                violations=found.violations,
                examples=found.examples,
            )

    async def _write(self, found: Found) -> None:
        """A letter for each example that is found, and an end to those about what is not found any more."""
        name = found.rule.name
        if found.skipped:
            return
        subjects = {example[:SUBJECT_CHARS_MAX] for example in found.examples}
        broken = [
            Failed(dead_letters.RECONCILE, NOBODY, subject, name, InvariantBroken.reason, detail=found.rule.says)
            for subject in subjects
        ]
        async with self._letters.transaction() as tx:
            # Of more than there are examples some letters may be about others of them.
            if found.violations == len(found.examples):
                known = await dead_letters.about(tx, dead_letters.RECONCILE, name)
                gone = [letter for letter in known if letter.subject not in subjects]
                await dead_letters.close(tx, gone, "not found any more")
            await dead_letters.open_letters(tx, broken)

    async def close(self) -> None:
        await self._databases.close()


async def build(settings: Settings, rooms: Rooms) -> list[Worker]:
    """The checker, where the databases of all services are there."""
    if set(rooms.names) != {"merchant", "inventory", "invoice"}:
        return []
    return [rooms.closed_at_end(Checker(Databases(settings), await rooms.postgres("invoice")))]
