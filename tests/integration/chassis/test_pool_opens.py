"""A pool whose connections take longer to open than a caller waits (PROTOCOL 13: 0.2 s)."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from invochain.chassis.postgres import Postgres, Sql
from invochain.errors import BulkheadFull
from tests.kit.fault_proxy import Link
from tests.kit.servers import PostgresServer

ONE = Sql("tests.pool_opens", "SELECT 1")
# A handshake is several round trips of twice this.
ONE_WAY_S = 0.08


@pytest.fixture
async def link(events_postgres: PostgresServer):
    link = await Link("database", events_postgres.host, events_postgres.port).start()
    yield link
    await link.close()


async def test_a_connection_that_opens_slowly_is_there_for_a_later_caller(events_postgres, events_dsn, link):
    """Nobody waits longer than he is promised, and all the same the pool does not stay empty for ever."""
    dsn = events_postgres.dsn("events", socket=False).replace(f":{events_postgres.port}", f":{link.port}")
    postgres = await Postgres.connect(dsn, name="slow", size=2, warm=0)
    try:
        link.delay(ONE_WAY_S)
        with pytest.raises(BulkheadFull):
            await _ask(postgres)
        async with asyncio.timeout(20):
            served = False
            while not served:
                with suppress(BulkheadFull):
                    served = await _ask(postgres) == 1
    finally:
        await postgres.close()


async def _ask(postgres: Postgres) -> int:
    async with postgres.reading() as tx:
        return await tx.fetchval(ONE)
