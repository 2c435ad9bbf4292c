"""Who answers a read: a real primary and a real replica, stopped, frozen, killed, promoted and put in the way."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import asyncpg
import pytest

from invochain.chassis import clock
from invochain.chassis.call import ANONYMOUS, Call
from invochain.chassis.postgres import LSN, Postgres, Sql
from invochain.chassis.replica import AS_OF, Reader, Rows, split_urls
from invochain.chassis.telemetry import READS
from tests.kit.servers import PostgresServer, ReplicaServer

WITHIN_S = 30
COUNT = Sql("test_replica_count", "SELECT count(*)::int FROM kept")
INSERT = Sql("test_replica_insert", "INSERT INTO kept DEFAULT VALUES")
SLOW = Sql("test_replica_slow", "SELECT count(*)::int FROM kept, pg_sleep(0.7)")


async def count(rows: Rows) -> int:
    row = await rows.fetchrow(COUNT)
    assert row is not None
    return row[0]


@dataclass
class Shelf:
    """A table on a primary, a replica of it, and a reader of both."""

    primary: PostgresServer
    replica: ReplicaServer
    postgres: Postgres
    reader: Reader

    def call(self, token: str = "") -> Call:
        return Call("/x/Read", ANONYMOUS, b"", clock.monotonic() + 4.8, consistency_token=token)

    async def put(self) -> str:
        """One more row; the token of its commit."""
        async with self.postgres.transaction(lsn=True) as tx:
            await tx.execute(INSERT)
        return tx.lsn

    async def on_replica(self, statement: str) -> object:
        connection = await asyncpg.connect(self.replica.dsn(), timeout=10)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    async def pause(self) -> None:
        await self.on_replica("SELECT pg_wal_replay_pause()")

        async def paused() -> bool:
            return await self.on_replica("SELECT pg_get_wal_replay_pause_state()") == "paused"

        await until(paused, "replay is paused")

    async def rotation(self, wanted: bool) -> None:
        async def so() -> bool:
            return self.reader._replicas[0].in_rotation is wanted

        await until(so, f"the replica's being in rotation is {wanted}")

    async def read(self, token: str = "", **more: object) -> tuple[int, str]:
        """Rows seen, and who answered and why."""
        before = told()
        call = self.call(token)
        found = await self.reader.read(call, count, **more)  # type: ignore[arg-type]
        (who,) = [name for name, n in told().items() if n != before.get(name, 0)]
        assert (AS_OF in call.out) == who.startswith("replica")
        return found, who


def told() -> dict[str, float]:
    samples = next(iter(READS.collect())).samples
    return {
        f"{s.labels['served_by']}: {s.labels['why']}": s.value for s in samples if s.name.endswith("_total") and s.value
    }


async def until(true: Callable[[], Awaitable[object]], said: str) -> None:
    try:
        async with asyncio.timeout(WITHIN_S):
            while not await true():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {WITHIN_S} s: {said}") from None


@pytest.fixture(scope="module")
async def stranger() -> AsyncIterator[tuple[PostgresServer, ReplicaServer]]:
    """Another cluster, with a replica of its own."""
    async with PostgresServer() as primary:
        await primary.make_database("shelf")
        async with ReplicaServer(primary) as replica:
            yield primary, replica


@pytest.fixture
async def shelf(replicated: tuple[PostgresServer, ReplicaServer]) -> AsyncIterator[Shelf]:
    """An empty table, a replica in rotation that has it."""
    primary, replica = replicated
    dsn = await primary.make_database("shelf")
    postgres = await Postgres.connect(dsn, name="shelf", size=4)
    connection = await asyncpg.connect(dsn)
    await connection.execute("DROP TABLE IF EXISTS kept; CREATE TABLE kept (n serial PRIMARY KEY)")
    reader = await Reader.open(postgres, dsn, [replica.dsn("shelf")], name="shelf", size=4)
    one = Shelf(primary, replica, postgres, reader)
    try:
        await one.rotation(True)

        async def same() -> bool:
            return await reader.read(one.call(await postgres_lsn(postgres)), count) == 0 and (
                await one.read(await postgres_lsn(postgres))
            )[1].startswith("replica")

        await until(same, "the replica has the table")
        yield one
    finally:
        with contextlib.suppress(AssertionError):
            replica.thaw()
        await one.on_replica("SELECT pg_wal_replay_resume()")
        await reader.close()
        await connection.close()
        await postgres.close()


async def postgres_lsn(postgres: Postgres) -> str:
    async with postgres.reading() as tx:
        return await tx.fetchval(LSN)


async def test_a_fresh_replica_answers_and_says_as_of_when(shelf: Shelf):
    """`x-as-of` is a time of the recent past: all that was committed by then was read."""
    await shelf.put()
    await asyncio.sleep(0)
    token = await postgres_lsn(shelf.postgres)

    async def replayed() -> bool:
        return (await shelf.read(token))[1] == "replica: token"

    await until(replayed, "the replica has the row")
    call = shelf.call()
    assert await shelf.reader.read(call, count) == 1
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(call.out[AS_OF])
    assert dt.timedelta(0) <= age < dt.timedelta(seconds=5)


async def test_who_brings_a_token_sees_its_write_though_replay_stands_still(shelf: Shelf):
    """Replay is paused: the token's read goes to the primary, and one without reads the past and says so."""
    await shelf.pause()
    token = await shelf.put()

    assert await shelf.read(token) == (1, "primary: behind_token")
    assert await shelf.read() == (0, "replica: no_token")
    assert await shelf.read("", after=token) == (1, "primary: behind_token")


@pytest.mark.parametrize(
    ("forge", "why"),
    [
        (lambda token: "0000002A" + token[8:], "token_of_other_timeline"),
        (lambda token: "00000000/0/0", "token_of_other_timeline"),
        (lambda token: token[:9] + "FFFFFFFF/FFFFFFFF", "behind_token"),
        (lambda token: token[9:], "token_unreadable"),
        (lambda token: "garbage'; DROP TABLE kept", "token_unreadable"),
        (lambda token: "0" * 300, "token_unreadable"),
    ],
)
async def test_a_token_that_says_nothing_here_is_answered_by_the_primary(shelf: Shelf, forge, why):
    """Of before a failover, of another release, forged or garbage: the primary is never older than any of them."""
    token = forge(await shelf.put())
    assert await shelf.read(token) == (1, f"primary: {why}")


async def test_a_replica_that_is_killed_costs_no_error_and_returns_by_itself(shelf: Shelf):
    """Killed: every read is answered, by the primary. Started again: it is in rotation without a hand."""
    await shelf.replica.kill9()
    token = await shelf.put()
    try:
        for _ in range(20):
            found, who = await shelf.read()
            assert (found, who.split(":")[0]) == (1, "primary")
        await shelf.rotation(False)
        assert await shelf.read(token) == (1, "primary: out_of_rotation")
    finally:
        await shelf.replica.start()
    await shelf.rotation(True)

    async def again() -> bool:
        return await shelf.read(token) == (1, "replica: token")

    await until(again, "the replica answers again")


async def test_a_replica_that_is_frozen_delays_a_read_by_a_second_and_leaves(shelf: Shelf):
    """It accepts and never answers: the read goes on at the primary within its own time."""
    shelf.replica.freeze()
    started = clock.monotonic()
    assert (await shelf.read())[1].startswith("primary")
    assert clock.monotonic() - started < 4
    await shelf.rotation(False)
    shelf.replica.thaw()
    await shelf.rotation(True)


async def test_a_read_that_replay_cancels_is_answered_by_the_primary(shelf: Shelf):
    """Recovery takes a lock that the statement holds (conflict with recovery): told by nobody, read again."""
    await shelf.on_replica("ALTER SYSTEM SET max_standby_streaming_delay = 0")
    await shelf.on_replica("SELECT pg_reload_conf()")
    try:
        before = told().get("primary: cancelled", 0)

        async def slow(rows: Rows) -> int:
            row = await rows.fetchrow(SLOW)
            assert row is not None
            return row[0]

        reading = asyncio.create_task(shelf.reader.read(shelf.call(), slow))

        async def under_way() -> object:
            return await shelf.on_replica(
                "SELECT true FROM pg_stat_activity WHERE query LIKE '%pg_sleep(0.7)' AND pid <> pg_backend_pid()"
            )

        await until(under_way, "the replica is reading")
        connection = await asyncpg.connect(shelf.primary.dsn("shelf"))
        await connection.execute("ALTER TABLE kept ADD COLUMN more int")
        await connection.close()
        assert await reading == 0
        assert told()["primary: cancelled"] == before + 1
    finally:
        await shelf.on_replica("ALTER SYSTEM RESET max_standby_streaming_delay")
        await shelf.on_replica("SELECT pg_reload_conf()")


async def test_a_server_that_is_no_replica_of_this_primary_is_never_asked(shelf: Shelf, stranger):
    """The primary's own URL, and a replica of another cluster, further on in its log: that says nothing about ours."""
    await further_on(stranger, await postgres_lsn(shelf.postgres))
    for dsn in (shelf.primary.dsn("shelf"), stranger[1].dsn("shelf")):
        reader = await Reader.open(shelf.postgres, shelf.primary.dsn("shelf"), [dsn], name="odd", size=2)
        try:

            async def noted(reader: Reader = reader) -> bool:
                return len(reader._notes) > 3

            await until(noted, "the watcher has looked a few times")
            assert not reader._replicas[0].in_rotation
            assert await reader.read(shelf.call(), count) == 0
        finally:
            await reader.close()


async def further_on(stranger: tuple[PostgresServer, ReplicaServer], token: str) -> None:
    """Until another cluster's replica has replayed beyond a place of ours."""
    primary, replica = [await asyncpg.connect(one.dsn()) for one in stranger]
    place = token.partition("/")[2]
    try:
        while not await primary.fetchval("SELECT pg_current_wal_flush_lsn() > $1::text::pg_lsn", place):
            await primary.execute("SELECT pg_create_restore_point('on'), pg_switch_wal()")

        async def there() -> bool:
            return await replica.fetchval("SELECT pg_last_wal_replay_lsn() > $1::text::pg_lsn", place)

        await until(there, "the stranger is further on")
    finally:
        await primary.close()
        await replica.close()


async def test_a_promoted_replica_answers_nobody(stranger):
    """What was promoted follows nobody: from the first statement on it is asked for nothing more, token or not."""
    primary, replica = stranger
    dsn = primary.dsn("shelf")
    postgres = await Postgres.connect(dsn, name="promoted", size=2)
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE TABLE kept (n serial PRIMARY KEY)")
    reader = await Reader.open(postgres, dsn, [replica.dsn("shelf")], name="promoted", size=2)
    one = Shelf(primary, replica, postgres, reader)
    try:
        await one.rotation(True)
        token = await one.put()
        await one.on_replica("SELECT pg_promote()")
        await one.put()

        for brought in (token, ""):
            found, who = await one.read(brought)
            assert (found, who.split(":")[0]) == (2, "primary")
        await one.rotation(False)
    finally:
        await reader.close()
        await connection.close()
        await postgres.close()


def test_a_list_of_urls_is_parted_between_urls_only():
    """A URL may name several hosts, with commas between them."""
    assert split_urls("") == []
    assert split_urls("postgresql://a@h1,h2/x, postgres://b@h3/x") == ["postgresql://a@h1,h2/x", "postgres://b@h3/x"]
