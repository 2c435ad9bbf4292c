"""The cache's epoch follows a real failover: another timeline, other names, and doubt in between (PROTOCOL 7)."""

from __future__ import annotations

import asyncio

from invochain.chassis import migrate
from invochain.chassis.postgres import Postgres
from invochain.invoice.cache_epoch import CacheEpoch, read
from invochain.invoice.outcomes import Outcomes
from tests.kit.fault_proxy import Link
from tests.kit.servers import PostgresServer, ReplicaServer


async def test_a_failover_empties_the_cache_and_doubt_does_so_before():
    """The primary dies: unknown within a second. Its replica takes over at the same address: another epoch."""
    async with PostgresServer() as primary:
        await migrate.migrate(await primary.make_database("invoice"), "invoice")
        async with ReplicaServer(primary) as replica:
            link = await Link("database", primary.host, primary.port).start()
            dsn = primary.dsn("invoice", socket=False).replace(f":{primary.port}", f":{link.port}")
            postgres = await Postgres.connect(dsn, name="invoice", size=2)
            outcomes = Outcomes(None, b"key")
            epoch = CacheEpoch(postgres, outcomes)
            await epoch.start()

            async def becomes(wanted) -> None:
                async with asyncio.timeout(30):
                    while not wanted(outcomes.epoch):
                        await asyncio.sleep(0.02)

            try:
                before = outcomes.epoch
                assert before is not None
                cluster, timeline, restores = before.split(".")
                assert (timeline, restores) == ("00000001", "1")

                await primary.kill9()
                link.reset()
                await becomes(lambda epoch: epoch is None)
                # What only follows cannot say: still unknown.
                link._target = (replica.host, replica.port)
                await epoch.look()
                assert outcomes.epoch is None

                promoting = await Postgres.connect(replica.dsn("postgres", "invoice"), name="promoting", size=1)
                async with promoting.reading() as tx:
                    await tx._connection.execute("SELECT pg_promote()")
                await promoting.close()
                await becomes(lambda epoch: epoch is not None)
                assert outcomes.epoch == f"{cluster}.00000002.1"
                assert await read(postgres) == outcomes.epoch
            finally:
                await epoch.close()
                await postgres.close()
                await link.close()
