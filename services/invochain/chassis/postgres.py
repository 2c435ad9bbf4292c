"""PostgreSQL: named statements, pools that refuse instead of waiting, transactions whose COMMIT is never cut off.

Ids are 16 bytes in Python (`chassis.ids`), `uuid` in the database. Every statement is an `Sql` constant, so that one
test prepares them all under the role that owns them.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import asyncpg

from invochain import core
from invochain.chassis import clock
from invochain.chassis.telemetry import PG_CONNECTIONS_ACTIVE, PG_QUERY_SECONDS, log
from invochain.errors import BulkheadFull, Code, DependencyDown, Refusal, Retry

# How long a handler waits for a connection before it is told that the pool is full (PROTOCOL 13).
POOL_WAIT_S = 0.2
# The least a handler waits, where others have waited in vain for that long already.
POOL_WAIT_LEAST_S = 0.02
WARM_CONNECTIONS = 4
# How long a connection may take to open; a machine that is short of time needs more than a caller waits.
OPEN_WITHIN_S = 5.0
LOCK_TIMEOUT_MS = 1_000
STATEMENT_TIMEOUT_MS = 2_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 5_000

# Array types by their elements, with the numbers that are fixed in PostgreSQL's pg_type.dat.
ARRAYS = {"bool": 1000, "bytea": 1001, "int2": 1005, "int4": 1007, "int8": 1016, "text": 1009, "uuid": 2951}


class Sql:
    """A statement with a name. `owner` is the room it belongs to, from the module that made it."""

    registered: ClassVar[list[Sql]] = []

    def __init__(self, name: str, text: str) -> None:
        module = sys._getframe(1).f_globals["__name__"]
        self.name, self.text, self.module = name, text.strip(), module
        self.seconds = PG_QUERY_SECONDS.labels(statement=name)
        Sql.registered.append(self)

    @property
    def owner(self) -> str:
        """`invoice` for invochain.invoice.x; `durable`, `chassis`, `workers` for what several rooms share."""
        return str(self.module.split(".")[1])

    def __repr__(self) -> str:
        return f"Sql({self.name!r})"


class CommitUnknown(Exception):
    """The connection was lost while COMMIT was under way: it may have committed, or may yet (PROTOCOL 3)."""


class UnexpectedSql(Refusal):
    """An SQL error nobody expected; the log has it."""

    code, reason, retry = Code.INTERNAL, "INTERNAL", Retry.SAME_KEY_LATER
    message = "the database refused a statement; the outcome is unknown, repeat with the same key"


class Tx:
    """A connection inside (or, for reads, outside) a transaction."""

    __slots__ = ("_connection", "lsn")

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        # After COMMIT, where it was asked for: the consistency token of what was written (PROTOCOL 8).
        self.lsn = ""

    async def fetch(self, sql: Sql, *args: Any) -> list[asyncpg.Record]:
        started = clock.monotonic()
        try:
            rows: list[asyncpg.Record] = await self._connection.fetch(sql.text, *args)
            return rows
        finally:
            sql.seconds.observe(clock.monotonic() - started)

    async def fetchrow(self, sql: Sql, *args: Any) -> asyncpg.Record | None:
        rows = await self.fetch(sql, *args)
        return rows[0] if rows else None

    async def fetchval(self, sql: Sql, *args: Any) -> Any:
        row = await self.fetchrow(sql, *args)
        return None if row is None else row[0]

    async def execute(self, sql: Sql, *args: Any) -> str:
        """Runs a statement and returns its command tag, for example `UPDATE 3`."""
        started = clock.monotonic()
        try:
            return str(await self._connection.execute(sql.text, *args))
        finally:
            sql.seconds.observe(clock.monotonic() - started)

    async def count(self, sql: Sql, *args: Any) -> int:
        """Runs a statement and returns how many rows it changed."""
        return int((await self.execute(sql, *args)).rsplit(" ", 1)[-1])


class Postgres:
    """A pool of connections to one database."""

    def __init__(self, pool: asyncpg.Pool, name: str) -> None:
        self._pool, self._name = pool, name
        self._in_use = 0
        # When the last connection that was free was taken; None: one is free.
        self._full_since: float | None = None
        self._active = PG_CONNECTIONS_ACTIVE.labels(pool=name)
        self._opening: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls,
        dsn: str,
        *,
        name: str,
        size: int,
        application: str = "invochain",
        warm: int = WARM_CONNECTIONS,
        required: bool = True,
    ) -> Postgres:
        """Opens a pool of `size` connections at most, `warm` of them now; `name` labels its metrics.

        With `warm` 0 the server need not be there yet. Else raises what asyncpg does when it is away, unless it is not
        `required`: then the pool connects when it is there.
        """
        # Warm: a cold pool would spend the wait of a caller on a handshake.
        try:
            return await cls._open(dsn, name, size, application, warm)
        except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError) as away:
            if required:
                raise
            log("chassis").warning("database_away_at_start", pool=name, why=f"{type(away).__name__}: {away}")
            return await cls._open(dsn, name, size, application, warm=0)

    @classmethod
    async def _open(cls, dsn: str, name: str, size: int, application: str, warm: int) -> Postgres:
        pool = await asyncpg.create_pool(
            dsn,
            min_size=min(size, warm),
            max_size=size,
            init=_prepare_connection,
            reset=_leave_as_it_is,
            max_inactive_connection_lifetime=0,
            command_timeout=STATEMENT_TIMEOUT_MS / 1_000 + 3,
            timeout=OPEN_WITHIN_S,
            server_settings={
                "application_name": f"{application}:{name}",
                "lock_timeout": str(LOCK_TIMEOUT_MS),
                "statement_timeout": str(STATEMENT_TIMEOUT_MS),
                "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT_MS),
                "timezone": "UTC",
                "jit": "off",
                # Every statement of a service goes by keys. Before its first ANALYZE a table looks empty, and the
                # planner reads it whole (seen: 136 ms for a batch of 110 among 6,000 rows, where 2 ms are enough); a
                # generic plan made then would stay. A bitmap gives up the order of its index: with estimates that are
                # wrong (columns that depend on each other) a page of a list would be sorted out of all there is.
                "plan_cache_mode": "force_custom_plan",
                "enable_seqscan": "off",
                "enable_bitmapscan": "off",
                "random_page_cost": "1.1",
            },
        )
        return cls(pool, name)

    async def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        try:
            await asyncio.wait_for(self._pool.close(), 5)
        except TimeoutError:
            self._pool.terminate()

    async def fill(self) -> None:
        """Opens all connections, before the first caller, who waits for none longer than 0.2 s."""
        size = self._pool.get_max_size()
        open_ = asyncio.Barrier(size)

        async def open_one() -> None:
            async with self.reading(OPEN_WITHIN_S):
                await open_.wait()

        async with asyncio.timeout(2 * OPEN_WITHIN_S):
            await asyncio.gather(*(open_one() for _ in range(size)))

    async def until_free(self) -> None:
        """Waits until a connection is free, as long as one would be waited for. Refuses: BulkheadFull.

        For work that has effects elsewhere before it needs a connection: it is better not begun while there is none.
        """
        if self._in_use >= self._pool.get_max_size():
            async with self._connection(POOL_WAIT_S):
                pass

    def _full_for(self) -> float:
        """Seconds since when no connection was given back, all being in use."""
        return 0.0 if self._full_since is None else clock.monotonic() - self._full_since

    @asynccontextmanager
    async def _connection(self, wait_s: float) -> AsyncIterator[asyncpg.Connection]:
        # A batch waits behind the batch before it, and both may not wait their 0.2 s one after the other.
        wait_s = max(wait_s - self._full_for(), POOL_WAIT_LEAST_S)
        try:
            connection = await self._pool.acquire(timeout=wait_s)
        except TimeoutError:
            if self._in_use < self._pool.get_max_size():
                self._open_for_the_next()
            raise BulkheadFull(f"a connection to the {self._name} database") from None
        except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError) as lost:
            raise DependencyDown(f"the {self._name} database") from lost
        except asyncpg.TooManyConnectionsError as full:
            raise BulkheadFull(f"a connection to the {self._name} database") from full
        self._active.inc()
        self._in_use += 1
        if self._in_use >= self._pool.get_max_size():
            self._full_since = clock.monotonic()
        try:
            yield connection
        finally:
            self._active.dec()
            self._in_use -= 1
            self._full_since = None
            await asyncio.shield(self._give_back(connection))

    def _open_for_the_next(self) -> None:
        """Opens a connection that took longer than its caller could wait: else every caller would begin anew, and end
        as he did."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open_one(), name=f"pool:{self._name}")

    async def _open_one(self) -> None:
        try:
            async with self._pool.acquire(timeout=OPEN_WITHIN_S):
                pass
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as away:
            log("chassis").warning("connection_not_opened", pool=self._name, why=type(away).__name__)

    async def _give_back(self, connection: asyncpg.Connection) -> None:
        """Returns a connection to the pool. One that was just lost fails to be returned: that must not replace the
        outcome of the work that was done on it."""
        try:
            await self._pool.release(connection)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as lost:
            log("chassis").warning("connection_not_returned", pool=self._name, why=type(lost).__name__)

    @asynccontextmanager
    async def reading(self, wait_s: float = POOL_WAIT_S) -> AsyncIterator[Tx]:
        """A connection for statements that each stand alone."""
        async with self._connection(wait_s) as connection:
            try:
                yield Tx(connection)
            except _LOST as lost:
                raise DependencyDown(f"the {self._name} database") from lost

    @asynccontextmanager
    async def transaction(self, wait_s: float = POOL_WAIT_S, *, lsn: bool = False) -> AsyncIterator[Tx]:
        """One READ COMMITTED transaction: COMMIT at the end of the block, ROLLBACK if it raises.

        With `lsn` the transaction's `lsn` is read after COMMIT (inside, it would be too old).
        COMMIT carries no time-out and is not cancelled with the task (PROTOCOL 3). Raises CommitUnknown if the
        connection is lost during it; DependencyDown if it is lost before, when nothing was committed.
        """
        async with self._connection(wait_s) as connection:
            try:
                await connection.execute("BEGIN")
                tx = Tx(connection)
                yield tx
            except _LOST as lost:
                raise DependencyDown(f"the {self._name} database") from lost
            except BaseException:
                if not connection.is_closed():
                    await asyncio.shield(connection.execute("ROLLBACK"))
                raise
            await asyncio.shield(_commit(connection))
            if lsn:
                try:
                    tx.lsn = await tx.fetchval(LSN)
                except _LOST:
                    # It is committed; only the token is not known.
                    tx.lsn = ""


_LOST = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.AdminShutdownError, OSError)

# Time-outs of locks and statements: nothing was done, every item is UNAVAILABLE and nothing is re-run (PROTOCOL 9).
TIMED_OUT = (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError)
# Another transaction was in the way: re-run item by item (PROTOCOL 9).
COLLIDED = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
# Somebody was in the way, or the connection was lost: nobody's mistake, and it may be asked again with the same key.
PASSING = (*TIMED_OUT, *COLLIDED, CommitUnknown)


async def _commit(connection: asyncpg.Connection) -> None:
    try:
        # A simple query of two statements: the second one runs without statement_timeout.
        await connection.execute("SET LOCAL statement_timeout = 0; COMMIT", timeout=None)
    except _LOST as lost:
        raise CommitUnknown from lost


async def _prepare_connection(connection: asyncpg.Connection) -> None:
    """Ids travel as 16 raw bytes, never as text; arrays are encoded by the core.

    asyncpg asks of every element whether it is an array itself, which was a tenth of the invoice process's time under
    load. Its set_type_codec takes no arrays, so they are given where that puts what it takes; its version is fixed in
    pyproject.toml, and a test holds every type both ways.
    """
    await connection.set_type_codec("uuid", schema="pg_catalog", encoder=_uuid_out, decoder=bytes, format="binary")
    settings = connection._protocol.get_settings()
    for name, oid in ARRAYS.items():
        codec = core.ArrayCodec(name)
        settings.add_python_codec(oid, f"_{name}", "pg_catalog", [], "scalar", codec.encode, codec.decode, "binary")


async def _leave_as_it_is(_connection: asyncpg.Connection) -> None:
    """What asyncpg does when a connection comes back to its pool, beyond a ROLLBACK: nothing. Settings are LOCAL here
    and locks end with their transaction (what is tied to a session has its own: session.py), so the round trip that
    resets them would make every batch wait for nothing."""


def _uuid_out(value: bytes) -> bytes:
    if len(value) != 16:
        raise ValueError("an id has 16 bytes")
    return value


def column(rows: Sequence[asyncpg.Record], name: str) -> list[Any]:
    """One column of a result."""
    return [row[name] for row in rows]


# The consistency token (PROTOCOL 8): the timeline, in eight hex digits as in a WAL file's name, and the place on it.
LSN = Sql(
    "wal_lsn", "SELECT substr(pg_walfile_name(lsn), 1, 8) || '/' || lsn::text FROM pg_current_wal_lsn() AS here (lsn)"
)
