"""One PostgreSQL cluster on a loopback port and a unix socket, durable as in production.

`initdb` once, then the server as a child of ours; ready when its own pid file says so. Passwords are scram, for the
socket too; the superuser is `postgres` and its password is in the secrets folder.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import asyncpg

from invochain.supervisor.binaries import ServerFiles
from invochain.supervisor.errors import CannotStart
from invochain.supervisor.folder import DataFolder
from invochain.supervisor.ports import LOOPBACK
from invochain.supervisor.process import Process, Program, run_to_end

INITDB_WITHIN_S = 60.0
# An orphan of a killed supervisor is told to end by the kernel; a fast shutdown with a checkpoint may take this long.
ORPHAN_WITHIN_S = 20.0
POLL_S = 0.02

CONFIGURATION = """\
# Written by InvoChain at every start; changes here are lost. Put your own into postgresql.conf, below the include.
listen_addresses = '{host}'
port = {port}
unix_socket_directories = {sockets}
unix_socket_permissions = 0777        # who may connect is for the password to say
max_connections = 200                 # four pools of 20 at most, the workers, and room for an operator
shared_buffers = 128MB
password_encryption = scram-sha-256
# Never answered before it is on disk.
fsync = on
synchronous_commit = on
full_page_writes = on
wal_level = replica
max_wal_size = 1GB
# What is kept for a read replica that is away; past this it is made anew (replica.py). The disk is never filled for it.
max_slot_wal_keep_size = 1GB
checkpoint_timeout = 15min
# Rows are locked in one order, so a deadlock is a mistake of ours: find it before the time budget is gone (PROTOCOL 9).
deadlock_timeout = 100ms
log_lock_waits = off
log_min_messages = warning
log_line_prefix = '%m [%p] %q%u@%d '
log_timezone = 'UTC'
timezone = 'UTC'
"""
ACCESS = """\
# Written by InvoChain when the cluster was made.
local all all               scram-sha-256
host  all all 127.0.0.1/32  scram-sha-256
"""
# Who may stream the write-ahead log: the read replica's role, which exists once there was a replica (replica.py).
REPLICATOR = "replicator"
REPLICATION_ACCESS = f"host replication {REPLICATOR} 127.0.0.1/32 scram-sha-256\n"


@dataclass(frozen=True)
class PostgresAddress:
    """How to reach one cluster, whoever keeps it running."""

    host: str
    port: int
    sockets: Path | None
    superuser_password: str

    def url(self, role: str, password: str, database: str, *, socket: bool = True) -> str:
        """A connection URL; over the unix socket when there is one, which costs less CPU a query than TCP."""
        who = f"{quote(role, safe='')}:{quote(password, safe='')}"
        name = quote(database, safe="")
        if socket and self.sockets:
            return f"postgresql://{who}@/{name}?host={quote(str(self.sockets), safe='')}&port={self.port}"
        return f"postgresql://{who}@{self.host}:{self.port}/{name}"

    def superuser_url(self, database: str = "postgres") -> str:
        return self.url("postgres", self.superuser_password, database)


class PostgresUnit:
    """Makes the cluster when it is new and says how to run it."""

    name = "postgres"
    # Crash recovery replays at most max_wal_size; a minute is far more than it needs on any disk we would accept.
    ready_within_s = 60.0

    def __init__(self, files: ServerFiles, folder: DataFolder, port: int) -> None:
        self.files = files.copied_below(folder.programs) if folder.account else files
        self.folder = folder
        self.server = PostgresAddress(LOOPBACK, port, folder.sockets, folder.password("postgres"))
        self.address = f"{LOOPBACK}:{port}"
        self.data = folder.path / "postgres"

    def program(self) -> Program:
        # SIGINT is PostgreSQL's fast shutdown: open transactions end, a checkpoint is written.
        return Program(
            name=self.name,
            command=[self.files.program(), "-D", str(self.data)],
            environment=clean_environment(),
            folder=self.data,
            account=self.folder.account,
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGINT,
            stop_within_s=20.0,
        )

    async def prepare(self) -> None:
        """Make the cluster if there is none, end an orphan of an earlier supervisor, write the configuration."""
        self.folder.owned_by_account(self.data.name)
        if not (self.data / "PG_VERSION").exists():
            await self._make_cluster()
        self._check_version()
        await self._end_orphan()
        sockets = str(self.server.sockets) if self.server.sockets else ""
        configuration = CONFIGURATION.format(
            host=self.server.host, port=self.server.port, sockets="'" + sockets.replace("'", "''") + "'"
        )
        self.folder.file_for_account(self.data, "invochain.conf", configuration + self._more_configuration())
        # A cluster of an earlier release lacks the line; what else its keeper wrote there stays.
        access = (self.data / "pg_hba.conf").read_text(encoding="utf-8")
        if REPLICATION_ACCESS not in access:
            self.folder.file_for_account(self.data, "pg_hba.conf", f"{access.rstrip()}\n{REPLICATION_ACCESS}")

    def _more_configuration(self) -> str:
        """Lines that a kind of server adds."""
        return ""

    async def _make_cluster(self) -> None:
        # Built beside its place and moved there when complete: a half-made cluster is never mistaken for one.
        new = self._place_for_a_new_one()
        folder = self.folder.owned_by_account("initdb")
        password = self.folder.file_for_account(folder, "password", self.server.superuser_password)
        program = Program(
            name="initdb",
            command=[
                *(self.files.program("initdb"), "-D", str(new), "--username=postgres", f"--pwfile={password}"),
                *("--auth=scram-sha-256", "--locale=C", "--encoding=UTF8", "--data-checksums", "--no-instructions"),
            ],
            environment=clean_environment(),
            folder=new,
            account=self.folder.account,
        )
        try:
            await run_to_end(program, self.folder.log / "postgres.log", INITDB_WITHIN_S)
        finally:
            password.unlink()
            folder.rmdir()
        settings = (new / "postgresql.conf").read_text(encoding="utf-8")
        self.folder.file_for_account(new, "postgresql.conf", f"include = 'invochain.conf'\n\n{settings}")
        self.folder.file_for_account(new, "pg_hba.conf", ACCESS)
        self.data.rmdir()
        new.rename(self.data)

    def _place_for_a_new_one(self) -> Path:
        new = self.folder.owned_by_account(f"{self.data.name}.new")
        empty(new)
        return new

    def _check_version(self) -> None:
        found = (self.data / "PG_VERSION").read_text(encoding="ascii").strip()
        wanted = self.files.version.split(".")[0]
        if found != wanted:
            raise CannotStart(
                f"the cluster in {self.data} was made by PostgreSQL {found}; the programs are {self.files.version}",
                f"set POSTGRES_BIN to the programs of PostgreSQL {found}, or start afresh with another --data-dir",
            )

    async def _end_orphan(self) -> None:
        """Wait for a server that outlived its supervisor, and clear away the pid file of one that is long gone.

        PostgreSQL itself refuses to start when the number in its pid file belongs to any living process, which after a
        reboot may be anything. We hold the lock on the folder, so nobody but an orphan can be using it.
        """
        pid_file = self.data / "postmaster.pid"
        deadline_s = time.monotonic() + ORPHAN_WITHIN_S
        told = False
        while (pid := _first_number(pid_file)) is not None:
            if not _runs_this_cluster(pid, self.data):
                pid_file.unlink(missing_ok=True)
                return
            if not told:
                os.kill(pid, signal.SIGINT)
                told = True
            if time.monotonic() > deadline_s:
                raise CannotStart(
                    f"PostgreSQL with process id {pid} still uses {self.data} and does not end",
                    f"stop it: kill -QUIT {pid}",
                )
            await asyncio.sleep(POLL_S)

    async def is_ready(self, process: Process) -> bool:
        """Whether it accepts connections, by its own word: line 1 is the pid, line 8 the state, as pg_ctl reads it."""
        lines = _lines(self.data / "postmaster.pid")
        return len(lines) >= 8 and lines[0].strip() == str(process.pid) and lines[7].strip() == "ready"

    async def make_database(self, name: str) -> str:
        """Make the role and the database called `name`, owned by it, unless they are there; returns its URL.

        No other role can connect to the database; the role can make nothing outside it.
        """
        password = self.folder.password(f"postgres-{name}")
        connection = await asyncpg.connect(self.server.superuser_url(), timeout=10)
        try:
            quoted = '"' + name.replace('"', '""') + '"'
            if not await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", name):
                await connection.execute(f"CREATE ROLE {quoted} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE")
            # The password is ours: random, URL-safe characters; set again in case the secrets folder was made anew.
            await connection.execute(f"ALTER ROLE {quoted} PASSWORD '{password}'")
            if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
                await connection.execute(f"CREATE DATABASE {quoted} OWNER {quoted}")
            await connection.execute(f"REVOKE ALL ON DATABASE {quoted} FROM PUBLIC")
        finally:
            await connection.close()
        return self.server.url(name, password, name)


def clean_environment() -> dict[str, str]:
    # Nothing of the user's environment: PGDATA, PGPORT or LC_ALL there must not decide anything here.
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C", "LC_ALL": "C", "TZ": "UTC"}


def empty(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _first_number(path: Path) -> int | None:
    """The pid in a pid file; None when there is no file, or it is being written just now."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None


def _runs_this_cluster(pid: int, data: Path) -> bool:
    """Whether process `pid` is a PostgreSQL server of exactly this cluster (Linux; elsewhere: whether it is alive)."""
    command = Path(f"/proc/{pid}/cmdline")
    if command.parent.parent.joinpath("self").exists():
        try:
            arguments = command.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            return False
        return os.fsencode(data) in arguments
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
