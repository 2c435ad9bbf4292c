"""A streaming read replica of the embedded PostgreSQL: the same programs, a folder and a port of its own.

Made by `pg_basebackup` from the running primary, then fed through a replication slot, so that a replica that was away
finds its log again. One that was away for longer than the slot keeps (max_slot_wal_keep_size), or whose primary was
made anew, is made anew too: it holds nothing of its own.
"""

from __future__ import annotations

import re
import subprocess

import asyncpg

from invochain.supervisor.errors import CannotStart
from invochain.supervisor.postgres import (
    REPLICATOR,
    PostgresAddress,
    PostgresUnit,
    clean_environment,
    empty,
)
from invochain.supervisor.process import Program, run_to_end

# Copying what a machine of this size holds; a loaded disk gives 20 MiB a second at least.
COPIED_WITHIN_S = 900.0
ASKED_WITHIN_S = 10.0
CONFIGURATION = """
# The read replica.
hot_standby = on
primary_conninfo = '{conninfo}'
primary_slot_name = '{slot}'
# Replay goes first: a read in its way is cancelled after a second, and the primary answers it.
max_standby_streaming_delay = 1s
max_standby_archive_delay = 1s
wal_receiver_timeout = 10s
wal_retrieve_retry_interval = 500ms
"""


class ReplicaUnit(PostgresUnit):
    """A hot standby of `primary`, which must run before this is prepared."""

    name = "replica"
    slot = "invochain_replica"

    def __init__(self, primary: PostgresUnit, port: int) -> None:
        super().__init__(primary.files, primary.folder, port)
        self._primary = primary
        self.data = self.folder.path / "replica"
        self.server = PostgresAddress(self.server.host, port, self.folder.sockets, primary.server.superuser_password)

    async def prepare(self) -> None:
        """Make or keep the copy, and write its configuration. Raises CannotStart while the primary does not answer."""
        try:
            connection = await asyncpg.connect(self._primary.server.superuser_url(), timeout=ASKED_WITHIN_S)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise CannotStart(f"the replica's primary does not answer: {error}") from None
        try:
            await self._ready_the_primary(connection)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise CannotStart(f"the replica's primary does not answer: {error}") from None
        finally:
            await connection.close(timeout=ASKED_WITHIN_S)
        await super().prepare()

    async def _ready_the_primary(self, connection: asyncpg.Connection) -> None:
        """The role and the slot; a copy that the slot cannot bring up to date is put away."""
        password = self.folder.password("postgres-replicator")
        if not await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", REPLICATOR):
            await connection.execute(f"CREATE ROLE {REPLICATOR} LOGIN REPLICATION")
        # Ours: random, URL-safe characters; set again in case the folder of passwords was made anew.
        await connection.execute(f"ALTER ROLE {REPLICATOR} PASSWORD '{password}'")
        state = await connection.fetchval(
            "SELECT coalesce(wal_status, 'unused') FROM pg_replication_slots WHERE slot_name = $1", self.slot
        )
        if (self.data / "PG_VERSION").exists():
            identity = await connection.fetchval("SELECT system_identifier FROM pg_control_system()")
            if state in (None, "lost") or identity != self._identity():
                await self._end_orphan()
                empty(self.data)
        if state == "lost":
            await connection.execute("SELECT pg_drop_replication_slot($1)", self.slot)
        if state in (None, "lost"):
            # Reserved at once: what is written during the copy is kept for it.
            await connection.execute("SELECT pg_create_physical_replication_slot($1, true)", self.slot)

    def _identity(self) -> int | None:
        """Which cluster this is a copy of."""
        said = subprocess.run(
            [self.files.program("pg_controldata"), "-D", str(self.data)],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=ASKED_WITHIN_S,
            check=False,
        )
        found = re.search(r"system identifier:\s+(\d+)", said.stdout)
        return int(found[1]) if found else None

    async def _make_cluster(self) -> None:
        """Copy the primary, whole or not at all."""
        new = self._place_for_a_new_one()
        primary = self._primary.server
        program = Program(
            name="pg_basebackup",
            command=[
                *(self.files.program("pg_basebackup"), "-D", str(new), "--checkpoint=fast", "--wal-method=stream"),
                *(
                    "-h",
                    primary.host,
                    "-p",
                    str(primary.port),
                    "-U",
                    REPLICATOR,
                    f"--slot={self.slot}",
                    "--no-password",
                ),
            ],
            environment={**clean_environment(), "PGPASSWORD": self.folder.password("postgres-replicator")},
            folder=new,
            account=self.folder.account,
        )
        await run_to_end(program, self.folder.log / "replica.log", COPIED_WITHIN_S)
        self.folder.file_for_account(new, "standby.signal", "")
        self.data.rmdir()
        new.rename(self.data)

    def _more_configuration(self) -> str:
        primary = self._primary.server
        password = self.folder.password("postgres-replicator")
        return CONFIGURATION.format(
            slot=self.slot,
            conninfo=f"host={primary.host} port={primary.port} user={REPLICATOR} password={password} "
            "application_name=invochain_replica connect_timeout=5",
        )


async def forget_replica(primary: PostgresUnit) -> None:
    """Drop the slot of a replica that is not wanted any more, which would keep the log from being cleared away."""
    connection = await asyncpg.connect(primary.server.superuser_url(), timeout=ASKED_WITHIN_S)
    try:
        await connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND NOT active",
            ReplicaUnit.slot,
        )
    finally:
        await connection.close()
