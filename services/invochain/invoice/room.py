"""What the use cases of this room stand on, started once a process (service.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from invochain.chassis.batch import TASK_LIFE_S
from invochain.chassis.call import Call
from invochain.chassis.pages import Pages
from invochain.chassis.postgres import Postgres
from invochain.chassis.replica import Reader
from invochain.invoice.inventory_port import InventoryPort
from invochain.invoice.outcomes import Outcomes
from invochain.invoice.parties import Parties
from invochain.invoice.settle_holds import Settlers

SeriesKey = tuple[bytes, str, str, str]
"""merchant_id, seller GSTIN, financial year, prefix."""


@dataclass(slots=True)
class Waiting:
    """A call whose series is busy, and what is known of it."""

    call: Call
    attempt: int
    held: bool
    started: float


@dataclass
class InvoiceRoom:
    """The invoice service's own things."""

    postgres: Postgres
    # For GetInvoice and ListInvoices alone (read_invoice.py).
    reader: Reader
    inventory: InventoryPort
    parties: Parties
    outcomes: Outcomes
    settlers: Settlers
    audit_key: bytes
    pages: Pages
    # A request that is older decides nothing any more (PROTOCOL 3a, 8).
    task_life_s: float = TASK_LIFE_S
    # Where operators' lists look for unread events; empty: they say that they did not.
    broker_url: str = ""
    # Held by the batch that decides (create_invoice.issue, all_or_nothing.py).
    deciding: asyncio.Lock = field(default_factory=asyncio.Lock)
    # Series whose counter row is known to exist.
    series: set[SeriesKey] = field(default_factory=set)
    # What waits for a busy series; it has one batch in flight, and the next one takes all that wait (PROTOCOL 9).
    lanes: dict[SeriesKey, list[Waiting]] = field(default_factory=dict)
    # A lane that waits for its row holds a connection: so many may do so at once.
    lane_turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    # Held by the all_or_nothing batch that waits for its row.
    whole_turn: asyncio.Lock = field(default_factory=asyncio.Lock)
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
