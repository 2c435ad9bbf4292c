"""`invochain doctor`: every lack is named with the command that mends it, and only lacks that matter fail it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from invochain.supervisor.examination import Finding, Level, examine
from invochain.supervisor.ports import free_port
from tests.kit.servers import PostgresServer, ReplicaServer, ValkeyServer

WITHIN_S = 60


def doctor(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a person runs it."""
    command = [sys.executable, "-c", "from invochain.cli import main; main()", "doctor", "--data-dir", str(folder)]
    settings: Mapping[str, str] = {**os.environ, **environment}
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=WITHIN_S, check=False)


def about(findings: list[Finding], subject: str) -> list[Finding]:
    return [finding for finding in findings if finding.subject == subject]


class TestDoctor:
    def test_a_missing_server_program_fails_it_and_is_named_with_its_remedy(self, tmp_path: Path):
        """Exit code 1 is for what makes a start impossible."""
        said = doctor(tmp_path, POSTGRES_BIN=str(tmp_path))

        assert 1 == said.returncode
        assert f"missing  PostgreSQL: POSTGRES_BIN: no program initdb in {tmp_path}" in said.stdout
        assert "-> run `make setup`" in said.stdout

    def test_a_missing_gateway_names_the_build(self, tmp_path: Path):
        """The remedy is one command."""
        said = doctor(tmp_path, INVOCHAIN_GATEWAY_BIN=str(tmp_path / "gateway"))

        assert 1 == said.returncode
        assert f"missing  gateway: no program at {tmp_path / 'gateway'}\n         -> make build" in said.stdout

    async def test_it_changes_nothing(self, tmp_path: Path):
        """Looking at a data folder does not make one."""
        await examine(tmp_path / "data")
        assert [] == list(tmp_path.iterdir())

    async def test_a_slow_deadlock_timeout_of_an_own_server_is_advised_against(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """PostgreSQL's default of 1 s eats half of a statement's time; ours is 100 ms (PROTOCOL section 9)."""
        async with PostgresServer() as server:
            monkeypatch.setenv("INVOCHAIN_INVOICE_DATABASE_URL", await server.make_database("invoice"))
            assert ["ok"] == [f.level.value for f in about(await examine(tmp_path), "your invoice database")]

            import asyncpg

            connection = await asyncpg.connect(server.dsn())
            await connection.execute("ALTER ROLE invoice SET deadlock_timeout = '1s'")
            await connection.close()

            slow = about(await examine(tmp_path), "your invoice database")[-1]
            assert Level.ADVICE is slow.level
            assert slow.found.startswith("deadlock_timeout is 1000 ms")
            assert "ALTER SYSTEM SET deadlock_timeout" in slow.remedy

    async def test_a_read_replica_is_told_for_what_it_is_and_never_missing(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        replicated: tuple[PostgresServer, ReplicaServer],
        market_postgres: PostgresServer,
    ):
        """One that follows; the primary's own URL; one of another cluster; one that is away."""
        primary, replica = replicated
        monkeypatch.setenv("INVOCHAIN_INVOICE_DATABASE_URL", primary.dsn("invoice"))
        away = f"postgresql://nobody:secret@127.0.0.1:{free_port()}/none"
        urls = [replica.dsn("invoice"), primary.dsn("invoice"), away]
        monkeypatch.setenv("INVOCHAIN_INVOICE_REPLICA_URLS", ",".join(urls))
        findings = await examine(tmp_path)

        follows, itself, gone = (about(findings, f"your read replica {n}")[0] for n in (1, 2, 3))
        assert (follows.level, follows.found) == (Level.GOOD, "follows its primary")
        assert (itself.level, itself.found) == (Level.ADVICE, "is no streaming replica; it answers nobody")
        assert gone.level is Level.ADVICE
        assert "secret" not in f"{gone.found} {gone.remedy}"

        monkeypatch.setenv("INVOCHAIN_INVOICE_DATABASE_URL", await market_postgres.make_database("invoice"))
        monkeypatch.setenv("INVOCHAIN_INVOICE_REPLICA_URLS", urls[0])
        (foreign,) = about(await examine(tmp_path), "your read replica 1")
        assert (foreign.level, "another cluster" in foreign.found) == (Level.ADVICE, True)

    async def test_own_servers_that_do_not_answer_are_missing_and_no_password_is_shown(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A URL holds a password, and people paste what doctor says into tickets."""
        postgres, valkey = PostgresServer(), ValkeyServer()
        try:
            monkeypatch.setenv("INVOCHAIN_MERCHANT_DATABASE_URL", postgres.dsn("merchant"))
            monkeypatch.setenv("INVOCHAIN_REDIS_URL", valkey.url)
            secrets = (postgres.password("merchant"), valkey.folder.password("valkey"))
            findings = await examine(tmp_path)
        finally:
            await postgres.discard()
            await valkey.discard()

        for subject, secret in zip(("your merchant database", "your Redis"), secrets, strict=True):
            (found,) = about(findings, subject)
            assert Level.NEEDED is found.level
            assert secret not in f"{found.found} {found.remedy}"
