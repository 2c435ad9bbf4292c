"""Numbered SQL migrations: each applied once, whole, by one process at a time.

A database carries up to two sequences: `durable` (what every service stores: decisions, outbox, inbox) first, then the
room's own. Files are `NNNN_name.up.sql` and `NNNN_name.down.sql`, numbered from 0001 without a gap. A migration must be
safe while the previous release serves: expand first, contract one release later. The table `schema_migration` says what
was applied, with a checksum: a file that changed afterwards is refused, for two databases would no longer be the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

import asyncpg

from invochain.chassis.postgres import Sql, Tx

# Which folders of SQL a database is made of, in order: name of the sequence, folder below the package.
SEQUENCES: dict[str, tuple[tuple[str, str], ...]] = {
    "merchant": (("durable", "durable/migrations"), ("merchant", "merchant/migrations")),
    "inventory": (("durable", "durable/migrations"), ("inventory", "inventory/migrations")),
    "invoice": (("durable", "durable/migrations"), ("invoice", "invoice/migrations")),
    "broker": (("broker", "chassis/broker_migrations"),),
}

# A migration that waits longer for a lock would stop every statement that queues behind it.
LOCK_TIMEOUT_MS = 2_000
# How long to wait for another process that is migrating the same database.
TURN_TIMEOUT_MS = 60_000
# Any number that nothing else locks by; "invochain migrate" in the list of locks.
ADVISORY_LOCK = 0x696E76_6D6967

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.(up|down)\.sql")


class MigrationRefused(Exception):
    """The files and the database do not fit together, or a migration failed; says which, and what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One pair of files."""

    sequence: str
    number: int
    name: str
    up: str
    down: str

    @property
    def label(self) -> str:
        return f"{self.sequence}/{self.number:04d}_{self.name}"

    @property
    def checksum(self) -> bytes:
        """SHA-256 of the `up` file. The way down may be mended later; it made no database what it is."""
        return hashlib.sha256(self.up.encode()).digest()


@dataclass(frozen=True, slots=True)
class Status:
    """One migration and when it was applied (None: not yet)."""

    label: str
    applied_at: str | None


def load(sequence: str, folder: Traversable) -> list[Migration]:
    """Reads a folder of migrations, in order. Refuses a gap, a pair with one half missing, a name that is not one."""
    halves: dict[tuple[int, str], dict[str, str]] = {}
    for entry in folder.iterdir() if folder.is_dir() else ():
        if not entry.name.endswith(".sql"):
            continue
        match = _FILE.fullmatch(entry.name)
        if not match:
            raise MigrationRefused(f"{sequence}: {entry.name} is not named NNNN_name.up.sql or NNNN_name.down.sql")
        halves.setdefault((int(match[1]), match[2]), {})[match[3]] = entry.read_text(encoding="utf-8")
    migrations = []
    for expected, ((number, name), pair) in enumerate(sorted(halves.items()), start=1):
        if number != expected:
            raise MigrationRefused(f"{sequence}: {expected:04d} is wanted, {number:04d}_{name} was found")
        if missing := {"up", "down"} - set(pair):
            raise MigrationRefused(f"{sequence}: {number:04d}_{name} has no .{missing.pop()}.sql")
        migrations.append(Migration(sequence, number, name, pair["up"], pair["down"]))
    return migrations


def migrations_of(room: str) -> list[Migration]:
    """All migrations of a room's database, in the order they are applied."""
    if room not in SEQUENCES:
        raise MigrationRefused(f"there is no database called {room!r}; known are {', '.join(SEQUENCES)}")
    package = files("invochain")
    return [m for name, folder in SEQUENCES[room] for m in load(name, package.joinpath(folder))]


async def migrate(dsn: str, room: str) -> list[str]:
    """Applies what is missing to the database of `room` and returns the labels of what was applied.

    Each migration is one transaction; several processes may call this at once. Refuses (MigrationRefused) a changed
    file, a missing one below an applied one, and SQL that fails; what was applied before it stays applied.
    """
    return await apply(dsn, migrations_of(room))


async def apply(dsn: str, wanted: Sequence[Migration]) -> list[str]:
    """`migrate` with the migrations given."""
    done: list[str] = []
    async with _turn(dsn) as tx:
        for migration in await _pending(tx, wanted):
            await _run(tx, migration, migration.up, APPLIED)
            done.append(migration.label)
    return done


async def down(dsn: str, room: str, to: int, *, sequence: str = "") -> list[str]:
    """Undoes the migrations of one sequence (by default the room's own) above number `to`, newest first."""
    sequence = sequence or room
    return await unapply(dsn, migrations_of(room), sequence, to)


async def unapply(dsn: str, wanted: Sequence[Migration], sequence: str, to: int) -> list[str]:
    """`down` with the migrations given. Data of what is undone are gone."""
    order = [m.sequence for m in wanted]
    if sequence not in order:
        raise MigrationRefused(f"there is no sequence {sequence!r} here; known are {', '.join(dict.fromkeys(order))}")
    done: list[str] = []
    async with _turn(dsn) as tx:
        applied = await _applied(tx)
        later = [m.label for m in wanted[order.index(sequence) :] if m.sequence != sequence and _key(m) in applied]
        if later:
            raise MigrationRefused(f"{later[-1]} stands on {sequence}; undo it first")
        for migration in reversed([m for m in wanted if m.sequence == sequence and m.number > to]):
            if _key(migration) in applied:
                await _run(tx, migration, migration.down, UNDONE)
                done.append(migration.label)
    return done


async def status(dsn: str, room: str) -> list[Status]:
    """Every migration of a room with the time it was applied. Refuses what `migrate` would refuse."""
    wanted = migrations_of(room)
    async with _turn(dsn) as tx:
        await _pending(tx, wanted)
        applied = await _applied(tx)
        return [
            Status(m.label, row["applied_at"].isoformat() if (row := applied.get(_key(m))) else None) for m in wanted
        ]


def _key(migration: Migration) -> tuple[str, int]:
    return migration.sequence, migration.number


async def _applied(tx: Tx) -> dict[tuple[str, int], asyncpg.Record]:
    return {(row["room"], row["number"]): row for row in await tx.fetch(READ_APPLIED)}


async def _pending(tx: Tx, wanted: Sequence[Migration]) -> list[Migration]:
    """What is still to be applied. Migrations of a newer release that are there already are left alone."""
    applied = await _applied(tx)
    pending = []
    for migration in wanted:
        row = applied.get(_key(migration))
        if row is None:
            pending.append(migration)
            continue
        if row["name"] != migration.name or bytes(row["checksum"]) != migration.checksum:
            raise MigrationRefused(
                f"{migration.label} was applied as {row['name']} with checksum {row['checksum'].hex()[:12]}, "
                f"the file now has {migration.checksum.hex()[:12]}: put the file back and write a new migration"
            )
        if late := [m.label for m in pending if m.sequence == migration.sequence]:
            raise MigrationRefused(f"{migration.label} is applied and {late[0]}, which comes before it, is not")
    return pending


async def _run(tx: Tx, migration: Migration, text: str, record: Sql) -> None:
    connection = tx._connection
    try:
        async with connection.transaction():
            # The file may set a shorter lock_timeout of its own; without one, this holds.
            await connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
            await connection.execute(text)
            if record is APPLIED:
                await tx.execute(record, migration.sequence, migration.number, migration.name, migration.checksum)
            else:
                await tx.execute(record, migration.sequence, migration.number)
    except asyncpg.LockNotAvailableError as busy:
        raise MigrationRefused(
            f"{migration.label} waited {LOCK_TIMEOUT_MS / 1_000:g} s for a lock and gave up, so that nobody queues "
            "behind it; nothing was changed, try again"
        ) from busy
    except asyncpg.PostgresError as error:
        raise MigrationRefused(f"{migration.label} failed, nothing of it was kept: {error}") from error


@asynccontextmanager
async def _turn(dsn: str) -> AsyncIterator[Tx]:
    """A connection of our own while it is our turn to migrate. Time-outs of the role's settings do not apply."""
    connection = await asyncpg.connect(
        dsn,
        timeout=10,
        server_settings={
            "application_name": "invochain:migrate",
            "lock_timeout": str(TURN_TIMEOUT_MS),
            "statement_timeout": "0",
            "timezone": "UTC",
        },
    )
    tx = Tx(connection)
    try:
        # The lock goes with the session: a killed migration leaves nothing behind.
        await tx.fetch(TAKE_TURN, ADVISORY_LOCK)
        if not await tx.fetchval(TABLE_IS_THERE):
            await tx.execute(CREATE_TABLE)
        yield tx
    except asyncpg.LockNotAvailableError as busy:
        raise MigrationRefused(f"another process has been migrating for {TURN_TIMEOUT_MS // 1_000} s") from busy
    finally:
        await connection.close(timeout=5)


TAKE_TURN = Sql("migrate_take_turn", "SELECT pg_advisory_lock($1)")

TABLE_IS_THERE = Sql("migrate_table_is_there", "SELECT to_regclass('schema_migration') IS NOT NULL")

CREATE_TABLE = Sql(
    "migrate_create_table",
    """
CREATE TABLE IF NOT EXISTS schema_migration (
    room text NOT NULL,
    number integer NOT NULL,
    name text NOT NULL,
    checksum bytea NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT schema_migration_pkey PRIMARY KEY (room, number)
)
""",
)

READ_APPLIED = Sql("migrate_read_applied", "SELECT room, number, name, checksum, applied_at FROM schema_migration")

APPLIED = Sql("migrate_applied", "INSERT INTO schema_migration (room, number, name, checksum) VALUES ($1, $2, $3, $4)")

UNDONE = Sql("migrate_undone", "DELETE FROM schema_migration WHERE room = $1 AND number = $2")
