"""Which life of the invoice database a cached outcome belongs to (PROTOCOL 7).

A failover, a restore or another cluster changes it, and with it the name of every cache entry: what was cached before
is not found any more. It is read again every second, beside the work; while the database cannot be reached nobody
knows, and the cache is not asked.
"""

from __future__ import annotations

import asyncio

import asyncpg

from invochain.chassis.postgres import Postgres, Sql
from invochain.chassis.telemetry import CACHE_EPOCHS, log
from invochain.errors import BulkheadFull, Refusal
from invochain.invoice.outcomes import Outcomes

# A failover takes longer than this, and its lost connections are seen within it.
EVERY_S = 1.0


async def read(postgres: Postgres) -> str:
    """Cluster, timeline and restore epoch. Refuses: DependencyDown, BulkheadFull."""
    async with postgres.reading() as tx:
        return str(await tx.fetchval(EPOCH))


class CacheEpoch:
    """Keeps the outcomes' epoch that of the database."""

    def __init__(self, postgres: Postgres, outcomes: Outcomes) -> None:
        self._postgres, self._outcomes = postgres, outcomes
        self._task: asyncio.Task[None] | None = None
        self._log = log("invoice")

    async def start(self) -> None:
        """Refuses to start without its database."""
        self._outcomes.epoch = await read(self._postgres)
        self._task = asyncio.create_task(self._follow(), name="cache-epoch")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> None:
        """Reads the epoch once. A full pool is no news of the database; anything else is doubt."""
        before = self._outcomes.epoch
        try:
            now = await read(self._postgres)
        except BulkheadFull:
            return
        except (Refusal, asyncpg.PostgresError, TimeoutError) as lost:
            self._outcomes.epoch = None
            if before is not None:
                self._log.warning("cache_epoch_unknown", why=type(lost).__name__)
            return
        self._outcomes.epoch = now
        if now != before:
            CACHE_EPOCHS.inc()
            self._log.warning("cache_epoch", was=before or "unknown", now=now)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self.look()


# The timeline of the place that is written to: the control file names the old one for a while after a promotion. A
# server that only follows has no such place, and says so by an error.
EPOCH = Sql(
    "cache_epoch",
    """
SELECT
    (SELECT system_identifier FROM pg_control_system())::text
    || '.' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
    || '.' || (SELECT max(epoch) FROM restore_epoch)::text
""",
)
