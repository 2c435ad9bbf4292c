"""Lanes: holds whose stock row is busy wait for it apart from the others, one batch in flight a SKU (PROTOCOL 9).

So a SKU that everybody wants delays those who want it and nobody else, and those who wait for it are granted together,
in one transaction after the other instead of one each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

from invochain.chassis.batch import Collector
from invochain.chassis.call import Call
from invochain.chassis.ids import Id

# (merchant_id, sku)
Key = tuple[Id, str]


class Lanes:
    """A collector per busy SKU, made when it is needed and forgotten when it is empty."""

    def __init__(
        self,
        run: Callable[[list[Call]], Awaitable[Collection[Call]]],
        *,
        at_once: int,
        items_max: int,
        waiting_max: int,
    ) -> None:
        self._run = run
        # A waiting transaction holds a connection: some of the pool must be left for the first pass.
        self._turns = asyncio.Semaphore(at_once)
        self._items_max, self._waiting_max = items_max, waiting_max
        self._lanes: dict[Key, tuple[Collector, list[int]]] = {}

    async def wait(self, key: Key, call: Call) -> bytes:
        """Joins the lane and returns the call's answer. Refuses: BulkheadFull, DeadlineTooShort."""
        if key not in self._lanes:
            collector = Collector(
                "reserve.lane", self._in_turn, slots=1, items_max=self._items_max, waiting_max=self._waiting_max
            )
            self._lanes[key] = (collector, [0])
        collector, inside = self._lanes[key]
        inside[0] += 1
        try:
            return await collector.submit(call)
        finally:
            inside[0] -= 1
            if not inside[0]:
                del self._lanes[key]

    async def _in_turn(self, calls: list[Call]) -> Collection[Call]:
        async with self._turns:
            return await self._run(calls)

    def __len__(self) -> int:
        return len(self._lanes)
