"""The embedded read replica with real servers: it streams, survives what happens to both, and is made anew."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from invochain.supervisor import replica as replica_module
from tests.kit.servers import PostgresServer, ReplicaServer

WITHIN_S = 30
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")


async def value(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def until(true: Callable[[], Awaitable[object]], said: str) -> None:
    try:
        async with asyncio.timeout(WITHIN_S):
            while not await true():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {WITHIN_S} s: {said}") from None


@pytest.fixture(scope="module", params=["embedded", "PostgreSQL 15"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[tuple[PostgresServer, ReplicaServer]]:
    """A primary with one table, and its replica; by the programs of the wheel, and by Debian's where they are."""
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("POSTGRES_BIN", raising=False)
        if request.param == "PostgreSQL 15":
            if not (DEBIAN_15 / "postgres").exists():
                pytest.skip("no PostgreSQL 15 on this machine")
            environment.setenv("POSTGRES_BIN", str(DEBIAN_15))
        async with PostgresServer() as primary:
            await primary.make_database("shop")
            await value(primary.dsn("shop"), "CREATE TABLE kept (n serial PRIMARY KEY)")
            async with ReplicaServer(primary) as replica:
                yield primary, replica


async def write(primary: PostgresServer) -> object:
    """One more row; its number."""
    return await value(primary.dsn("shop"), "INSERT INTO kept DEFAULT VALUES RETURNING n")


async def streamed(replica: ReplicaServer, number: object) -> None:
    async def there() -> object:
        return await value(replica.dsn("shop"), f"SELECT true FROM kept WHERE n = {number}")

    await until(there, f"{number} is on the replica")


async def test_it_follows_its_primary_and_takes_no_write(pair):
    """What is committed there is read here, under the same role and password; a write is refused."""
    primary, replica = pair
    await streamed(replica, await write(primary))

    assert await value(replica.dsn("shop"), "SELECT pg_is_in_recovery()")
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await value(replica.dsn("shop"), "INSERT INTO kept DEFAULT VALUES")


async def test_it_comes_back_after_a_kill_of_either_and_finds_its_log_again(pair):
    """Killed, it misses what is written meanwhile and catches up from its slot; a killed primary is followed again."""
    primary, replica = pair
    await replica.kill9()
    meanwhile = await write(primary)
    await replica.start()
    await streamed(replica, meanwhile)

    await primary.kill9()
    await primary.start()
    await streamed(replica, await write(primary))


async def test_a_replica_whose_log_is_gone_is_copied_anew(pair):
    """It was away for longer than its slot keeps; the slot says so, and the copy is thrown away and made again."""
    primary, replica = pair
    await replica.stop()
    connection = await asyncpg.connect(primary.dsn())
    # As after a start without a replica: its slot was dropped, and the log behind it cleared away.
    await replica_module.forget_replica(primary.unit)
    assert not await connection.fetchval("SELECT count(*) FROM pg_replication_slots")
    meanwhile = await write(primary)
    await connection.execute("SELECT pg_switch_wal()")
    await connection.execute("CHECKPOINT")
    await connection.close()

    await replica.start()
    await streamed(replica, await write(primary))
    await streamed(replica, meanwhile)


async def test_the_slot_never_fills_the_disk(pair):
    """A replica that never comes back costs 1 GB of log at most."""
    primary, _ = pair
    assert await value(primary.dsn(), "SHOW max_slot_wal_keep_size") == "1GB"


async def test_the_replicator_reads_no_database(pair):
    """Its password opens the stream of the log and nothing else."""
    primary, _ = pair
    password = primary.folder.password("postgres-replicator")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(primary.unit.server.url("replicator", password, "shop"), timeout=10)
