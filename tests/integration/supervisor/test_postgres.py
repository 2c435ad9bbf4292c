"""The PostgreSQL unit with real servers: what it promises about access, durability and whom it runs as."""

import os
import pwd
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from invochain.supervisor.errors import CannotStart
from invochain.supervisor.postgres import PostgresUnit
from invochain.supervisor.process import Process, Program
from tests.kit.servers import PostgresServer, ValkeyServer


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[PostgresServer]:
    async with PostgresServer() as running:
        yield running


async def value(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


class TestPostgresServer:
    async def test_commits_survive_a_kill(self, server: PostgresServer):
        """What was committed before SIGKILL is there after crash recovery, on the same port."""
        dsn = await server.make_database("durable")
        await value(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")

        await server.kill9()
        await server.start()

        assert 42 == await value(dsn, "SELECT answer FROM kept")

    async def test_the_settings_that_make_it_durable_are_on(self, server: PostgresServer):
        """A test server is as durable as the one users get; a deadlock is found within 100 ms (PROTOCOL section 9)."""
        wanted = {
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "data_checksums": "on",
            "deadlock_timeout": "100ms",
            "password_encryption": "scram-sha-256",
            "server_encoding": "UTF8",
            "TimeZone": "UTC",
        }
        found = {name: await value(server.dsn(), f"SHOW {name}") for name in wanted}

        assert wanted == found

    @pytest.mark.parametrize("socket", [True, False], ids=["unix socket", "loopback"])
    async def test_a_wrong_password_opens_nothing(self, server: PostgresServer, socket: bool):
        """No door trusts its callers, the unix socket neither."""
        await server.make_database("guarded")
        dsn = server.unit.server.url("guarded", "guessed", "guarded", socket=socket)

        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(dsn, timeout=10)

    async def test_a_role_can_reach_no_other_database(self, server: PostgresServer):
        """Each service has a database and a role of its own; that role cannot even connect to another's."""
        await server.make_database("mine")
        await server.make_database("yours")

        with pytest.raises(asyncpg.InsufficientPrivilegeError, match='permission denied for database "yours"'):
            await asyncpg.connect(server.dsn("mine", "yours"), timeout=10)

    async def test_making_a_database_again_changes_nothing(self, server: PostgresServer):
        """Each start asks for every database; the one that is there keeps its data and its password."""
        dsn = await server.make_database("again")
        await value(dsn, "CREATE TABLE kept AS SELECT 1 AS one")

        assert dsn == await server.make_database("again")
        assert 1 == await value(dsn, "SELECT one FROM kept")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to drop")
    async def test_run_as_root_it_drops_its_privileges(self, server: PostgresServer):
        """Process and files belong to an unprivileged account, which runs a copy of the programs in our own folder."""
        account = server.folder.account
        assert account is not None

        process = Path(f"/proc/{server.process.pid}")
        uids = next(line for line in (process / "status").read_text().splitlines() if line.startswith("Uid:"))

        assert {str(account.uid)} == set(uids.split()[1:])
        assert account.uid == (server.data / "PG_VERSION").stat().st_uid
        assert account.uid != pwd.getpwnam("root").pw_uid
        if "POSTGRES_BIN" not in os.environ:
            assert (process / "exe").resolve().is_relative_to(server.folder.path)

    async def test_a_pid_file_of_another_time_is_cleared_away(self, server: PostgresServer):
        """After a reboot the number in the pid file may be anybody's; PostgreSQL alone would refuse to start."""
        await server.kill9()
        sleeper = Program("bystander", ["/bin/sleep", "600"], {}, Path("/"), account=server.folder.account)
        bystander = Process(sleeper, server.folder.log / "bystander.log")
        try:
            pid_file = server.data / "postmaster.pid"
            lines = pid_file.read_text().splitlines()
            pid_file.write_text("\n".join([str(bystander.pid), *lines[1:]]))

            await server.start()

            assert 1 == await value(server.dsn(), "SELECT 1")
            assert bystander.exit_code is None, "whoever has the number now is none of our business"
        finally:
            await bystander.kill9()

    async def test_a_cluster_of_another_version_is_refused_with_the_remedy(self, server: PostgresServer):
        """An upgrade of the programs must not open, and perhaps spoil, data of an older release."""
        await server.stop()
        version = server.data / "PG_VERSION"
        before = version.read_text()
        version.write_text("14\n")
        try:
            with pytest.raises(CannotStart, match=r"made by PostgreSQL 14(.|\n)*POSTGRES_BIN"):
                await PostgresUnit(server.unit.files, server.folder, server.port).prepare()
        finally:
            version.write_text(before)
            await server.start()


class TestValkeyServer:
    async def test_it_answers_nobody_without_the_password(self):
        """On loopback any user of the machine can connect; only the password tells them apart."""
        import redis.asyncio as redis

        async with ValkeyServer() as server:
            client = redis.Redis.from_url(server.url)
            assert await client.ping()
            await client.aclose()
            stranger = redis.Redis(host="127.0.0.1", port=server.port)
            with pytest.raises(redis.AuthenticationError):
                await stranger.ping()
            await stranger.aclose()
