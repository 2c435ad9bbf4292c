"""After COMMIT, behind the answer: holds of issued invoices are made lasting, those of refused ones given back.

If this is lost, nothing is: the hold stays PENDING and the resolver settles it by the decision row (PROTOCOL R4).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence

from invochain.chassis.postgres import PASSING, Postgres
from invochain.chassis.telemetry import SAGA_COMPENSATION, log
from invochain.errors import Refusal
from invochain.invoice.give_up import FINAL, give_up
from invochain.invoice.inventory_port import SETTLE_ITEMS_MAX, Hold, InventoryPort

TRIES = 3
# What waits beyond this is left to the resolver: memory is bounded, correctness is not at stake.
WAITING_MAX = 50_000


class Settler:
    """Sends one kind of command (Confirm or Release) in natural batches, one in flight."""

    def __init__(self, name: str, send: Callable[[Sequence[Hold]], Awaitable[list[str]]], postgres: Postgres) -> None:
        self._name, self._send, self._postgres = name, send, postgres
        self._waiting: deque[Hold] = deque(maxlen=WAITING_MAX)
        self._task: asyncio.Task[None] | None = None
        self._log = log("invoice")

    def soon(self, holds: Iterable[Hold]) -> None:
        """Queues holds; returns at once."""
        self._waiting.extend(holds)
        if self._waiting and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run(), name=f"settle:{self._name}")

    async def _run(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), SETTLE_ITEMS_MAX))]
            for attempt in range(TRIES):
                try:
                    refused = await self._send(batch)
                except Refusal as refusal:
                    if attempt == TRIES - 1:
                        self._log.warning("left_to_the_resolver", way=self._name, holds=len(batch), why=refusal.reason)
                        break
                    await asyncio.sleep(random.uniform(0.05, 0.2) * 2**attempt)
                    continue
                SAGA_COMPENSATION.labels(way=f"{self._name}_after_decision").inc(len(batch))
                await self._note([(hold, reason) for hold, reason in zip(batch, refused, strict=True) if reason])
                break

    async def _note(self, refused: Sequence[tuple[Hold, str]]) -> None:
        """What no repeat can mend becomes a dead letter now; the rest is left to the resolver."""
        for hold, reason in refused:
            self._log.error("settle_refused", way=self._name, reason=reason, rid=hold.rid.hex())
        lost = [(hold, reason, 1) for hold, reason in refused if reason in FINAL]
        for attempt in range(TRIES):
            try:
                return await give_up(self._postgres, self._name, lost)
            except (Refusal, *PASSING) as failed:
                # The checker sees such a hold as well (I5): what is lost with the database is not lost from sight.
                self._log.error("letter_not_opened", way=self._name, holds=len(lost), why=type(failed).__name__)
                await asyncio.sleep(random.uniform(0.05, 0.2) * 2**attempt)
        return None

    async def drain(self) -> None:
        """Waits for what is queued."""
        if self._task:
            await self._task


class Settlers:
    """The two kinds."""

    def __init__(self, inventory: InventoryPort, postgres: Postgres) -> None:
        self.confirm = Settler("confirm", inventory.confirm, postgres)
        self.release = Settler("release", inventory.release, postgres)

    async def drain(self) -> None:
        await self.confirm.drain()
        await self.release.drain()
