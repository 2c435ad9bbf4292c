"""What the use cases of this room stand on, started once a process (service.py)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from invochain.chassis.pages import Pages
from invochain.chassis.postgres import Postgres
from invochain.invoice.inventory_port import InventoryPort
from invochain.invoice.outcomes import Outcomes
from invochain.invoice.parties import Parties
from invochain.invoice.settle_holds import Settlers

SeriesKey = tuple[bytes, str, str, str]
"""merchant_id, seller GSTIN, financial year, prefix."""


@dataclass
class InvoiceRoom:
    """The invoice service's own things."""

    postgres: Postgres
    inventory: InventoryPort
    parties: Parties
    outcomes: Outcomes
    settlers: Settlers
    audit_key: bytes
    pages: Pages
    # Series whose counter row is known to exist.
    series: set[SeriesKey] = field(default_factory=set)
    # A busy series has one batch in flight: its lane.
    lanes: defaultdict[SeriesKey, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs something beside the batch that started it; `drain` waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.outcomes.drain()
        await self.settlers.drain()
