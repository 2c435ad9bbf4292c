"""Clients hang up at any moment and ask again: what was begun is finished or given up, and nothing is left over."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

import pytest

from tests.chaos.doors import Answer, Door, GrpcDoor
from tests.chaos.experiment import PATIENCE_S, SEED, Experiment, Field

HUNG_UP = {False: 100, True: 1_000}


@dataclass
class HastyDoor:
    """Every second request is given up after a random while, mostly before its answer."""

    door: Door
    # About as long as answers take; those that take longer are given up for sure.
    within_s: float
    left: int = 0
    _chance: random.Random = field(default_factory=lambda: random.Random(SEED))

    async def create(self, request, who, key) -> Answer:
        return await self._hasty(self.door.create(request, who, key))

    async def move(self, move, invoice_id, who, key) -> Answer:
        return await self._hasty(self.door.move(move, invoice_id, who, key))

    async def _hasty(self, asking) -> Answer:
        if self._chance.random() < 0.5:
            return await asking
        task = asyncio.ensure_future(asking)
        await asyncio.wait([task], timeout=self._chance.uniform(0, self.within_s))
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self.left += 1
        return Answer("CANCELLED by its client", final=False)


async def idle(run: Experiment) -> bool:
    """Nothing is under way in either service: no item waits, no connection is in use but the one that looks."""
    for room in ("invoice", "inventory"):
        if await run.processes.metric(room, "batch_waiting") or await run.processes.metric(
            room, "pg_connections_active"
        ):
            return False
    return not await run.processes.metric("invoice", "bulkhead_in_flight")


@pytest.mark.timeout(600)
async def test_clients_who_hang_up_leave_no_hold_no_connection_and_no_second_invoice(field: Field):
    """A thousand requests are cancelled at a random moment; who asks again gets the one result of his key."""
    door = HastyDoor(GrpcDoor(field.market), within_s=0.1)
    async with Experiment(field, "clients hang up", door) as run:
        async with asyncio.timeout(5 * PATIENCE_S):
            while door.left < HUNG_UP[field.full]:
                await run.traffic.tried(run.clients, PATIENCE_S)
        run.happened("requests hung up", door.left)
        last = time.monotonic()
        await run.settled(last, field.undecided_s)
        await run.verdict()
        await run.market.until(lambda: idle(run), PATIENCE_S)
