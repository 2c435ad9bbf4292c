"""Connections that can only read: long statements allowed, writing refused, one snapshot a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from invochain.chassis.postgres import LOCK_TIMEOUT_MS, _prepare_connection
from invochain.chassis.settings import Settings

ROOMS = ("merchant", "inventory", "invoice", "broker")
# A page takes milliseconds; the longest statement is the one over a whole number series.
STATEMENT_TIMEOUT_MS = 30_000
# One for the page, one to look again at what seemed wrong.
CONNECTIONS = 2
# A server that does not answer must not hold up whoever ends.
CLOSE_S = 2.0


class Databases:
    """The rooms' databases, each opened when first asked for. A session of this pool cannot write."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pools: dict[str, asyncpg.Pool] = {}
        self._opening = asyncio.Lock()

    def has(self, room: str) -> bool:
        """Whether the room's INVOCHAIN_<ROOM>_DATABASE_URL is set."""
        return bool(getattr(self._settings, f"{room}_database_url"))

    @property
    def settings(self) -> Settings:
        return self._settings

    @asynccontextmanager
    async def snapshot(self, room: str) -> AsyncIterator[asyncpg.Connection]:
        """One REPEATABLE READ transaction: everything read in the block is of one moment.

        It takes no row lock and waits for none. Keep it short: vacuum cannot pass its snapshot.
        """
        pool = await self._pool(room)
        async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            yield connection

    async def close(self) -> None:
        for pool in self._pools.values():
            try:
                await asyncio.wait_for(pool.close(), CLOSE_S)
            except TimeoutError:
                pool.terminate()
        self._pools.clear()

    async def _pool(self, room: str) -> asyncpg.Pool:
        async with self._opening:
            if room not in self._pools:
                self._pools[room] = await asyncpg.create_pool(
                    self._settings.database_url(room),
                    min_size=0,
                    max_size=CONNECTIONS,
                    init=_prepare_connection,
                    timeout=5,
                    command_timeout=STATEMENT_TIMEOUT_MS / 1_000 + 3,
                    server_settings={
                        "application_name": f"invochain-check:{room}",
                        "default_transaction_read_only": "on",
                        "statement_timeout": str(STATEMENT_TIMEOUT_MS),
                        "lock_timeout": str(LOCK_TIMEOUT_MS),
                        "idle_in_transaction_session_timeout": str(STATEMENT_TIMEOUT_MS),
                        "timezone": "UTC",
                        "jit": "off",
                        # Pages go by keys, also while a table is young and has no statistics (chassis/postgres.py).
                        "plan_cache_mode": "force_custom_plan",
                        "enable_seqscan": "off",
                        "random_page_cost": "1.1",
                        # A filter that seems rare must not make it sort the whole table for each page instead of
                        # walking the key (seen with 100,000 invoices: 111 us a row).
                        "enable_sort": "off",
                        "enable_incremental_sort": "off",
                        "enable_bitmapscan": "off",
                        # One core at most is ours for a while.
                        "max_parallel_workers_per_gather": "0",
                    },
                )
            return self._pools[room]
