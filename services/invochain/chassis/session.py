"""A connection kept for its session: for what PostgreSQL ties to a session, advisory locks and LISTEN.

Its COMMITs do not wait for the disk: what a crash may not take back is written through a pool.

Who holds an advisory lock leads something. The lock goes when the session goes: at once when the process dies, within
`LEASE_S` when it freezes or its machine vanishes, because the server ends a session that does not show a heartbeat.
A leader that has lost its lock without noticing may overlap with the next one: nothing here may be the only guard of
an invariant (PROTOCOL R1). Needs a direct connection or a pooler in session mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache

import asyncpg

from invochain.chassis import clock
from invochain.chassis.postgres import LOCK_TIMEOUT_MS, STATEMENT_TIMEOUT_MS, Sql, Tx, _prepare_connection
from invochain.errors import DependencyDown

# The server ends a session that was silent for so long; PROTOCOL 6 allows 5 s until a standby takes over.
LEASE_S = 4.0
HEARTBEAT_S = 1.0

OnOpen = Callable[[asyncpg.Connection], Awaitable[None]]


class Session:
    """One connection, opened when first used and again after it was lost; used by one task at a time."""

    def __init__(self, dsn: str, name: str, *, on_open: OnOpen | None = None) -> None:
        self._dsn, self._name, self._on_open = dsn, name, on_open
        self._turn = asyncio.Lock()
        self._connection: asyncpg.Connection | None = None
        self._held: set[tuple[int, int]] = set()
        self._heart: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Tx]:
        """The connection, for statements that each stand alone. Raises DependencyDown if there is none."""
        async with self._turn:
            try:
                yield Tx(await self._open())
            except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.OperatorInterventionError) as lost:
                if isinstance(lost, asyncpg.QueryCanceledError):
                    raise
                raise DependencyDown(f"the {self._name} database") from lost
            except (OSError, TimeoutError) as lost:
                raise DependencyDown(f"the {self._name} database") from lost
            except asyncpg.InternalClientError as broken:
                # A connection whose last command was cut off under way (asyncpg); it is of no use any more.
                if self._connection is not None:
                    self._connection.terminate()
                raise DependencyDown(f"the {self._name} database") from broken

    async def lead(self, name: str, number: int = 0) -> bool:
        """Takes a lock if nobody has it; True when we hold it now. Repeating it is cheap while we do."""
        if self.leads(name, number):
            return True
        async with self.use() as tx:
            if await tx.fetchval(TRY_LOCK, kind(name), number):
                self._held.add((kind(name), number))
        return self.leads(name, number)

    def leads(self, name: str, number: int = 0) -> bool:
        """Whether we hold the lock, as far as we know."""
        return bool(self.led(name, (number,)))

    def led(self, name: str, numbers: Sequence[int]) -> list[int]:
        """Which of these locks we hold, as far as we know."""
        if self._connection is None or self._connection.is_closed():
            return []
        number_of = kind(name)
        return [number for number in numbers if (number_of, number) in self._held]

    async def yield_(self, name: str, number: int = 0) -> None:
        """Gives a lock back; nothing happens if we do not hold it."""
        if self.leads(name, number):
            self._held.discard((kind(name), number))
            async with self.use() as tx:
                await tx.fetchval(UNLOCK, kind(name), number)

    async def close(self) -> None:
        """Ends the session, and with it every lock."""
        if self._heart is not None:
            self._heart.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._heart
        connection, self._connection = self._connection, None
        self._held.clear()
        if connection is not None and not connection.is_closed():
            try:
                await connection.close(timeout=2)
            except (TimeoutError, OSError, asyncpg.PostgresError):
                connection.terminate()

    async def _open(self) -> asyncpg.Connection:
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        self._held.clear()
        connection = await asyncpg.connect(
            self._dsn,
            timeout=5,
            command_timeout=STATEMENT_TIMEOUT_MS / 1_000 + 3,
            server_settings={
                "application_name": f"invochain:{self._name}:session",
                "lock_timeout": str(LOCK_TIMEOUT_MS),
                "statement_timeout": str(STATEMENT_TIMEOUT_MS),
                "idle_session_timeout": str(int(LEASE_S * 1_000)),
                "timezone": "UTC",
                "jit": "off",
                # Written here is only what is written again if a crash loses it: a position that moved, an event that
                # was published. So nobody waits for the disk.
                "synchronous_commit": "off",
            },
        )
        await _prepare_connection(connection)
        if self._on_open is not None:
            await self._on_open(connection)
        self._connection = connection
        if self._heart is None or self._heart.done():
            self._heart = asyncio.create_task(self._beat(), name=f"heartbeat:{self._name}")
        return connection

    async def _beat(self) -> None:
        """Shows the server that we live. A lost connection ends the heart; the next use opens both again."""
        while self._connection is not None and not self._connection.is_closed():
            await asyncio.sleep(HEARTBEAT_S)
            try:
                async with self._turn:
                    if self._connection is None or self._connection.is_closed():
                        return
                    await Tx(self._connection).fetchval(BEAT)
            except (
                *(asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError),
                *(OSError, TimeoutError),
            ):
                if self._connection is not None:
                    self._connection.terminate()


class Share:
    """Divides numbered slots fairly among the sessions that ask for them, each slot to one session.

    Members find each other by a shared lock. Each takes free slots up to its fair share and gives back what is more,
    so that a newcomer gets its part and a dead member's part is taken over.
    """

    def __init__(self, session: Session, name: str, slots: Sequence[int], *, every_s: float = 1.0) -> None:
        self._session, self._name, self._slots, self._every_s = session, name, list(slots), every_s
        self._member = kind(f"{name}/member")
        self._joined_on: asyncpg.Connection | None = None
        self._due = 0.0

    @property
    def mine(self) -> list[int]:
        """The slots we hold now, as far as we know."""
        return self._session.led(self._name, self._slots)

    async def balance(self) -> list[int]:
        """Takes or gives back slots when it is time to (every second), and returns those we hold.

        Call it between two rounds of work: a slot may be given back here.
        """
        lost = self._joined_on is None or self._joined_on is not self._session._connection
        if not lost and clock.monotonic() < self._due and not self._joined_on.is_closed():  # type: ignore[union-attr]
            return self.mine
        async with self._session.use() as tx:
            if self._joined_on is not tx._connection:
                await tx.fetchval(JOIN, self._member)
                self._joined_on = tx._connection
            members = await tx.fetchval(MEMBERS, self._member)
        fair = math.ceil(len(self._slots) / max(members, 1))
        mine = self.mine
        for slot in mine[fair:]:
            await self._session.yield_(self._name, slot)
        for slot in self._slots:
            if len(mine) >= fair:
                break
            if slot not in mine and await self._session.lead(self._name, slot):
                mine.append(slot)
        self._due = clock.monotonic() + self._every_s
        return self.mine


@cache
def kind(name: str) -> int:
    """The number under which PostgreSQL knows a kind of lock: 31 bits of the name's SHA-256."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) & 0x7FFF_FFFF


TRY_LOCK = Sql("session_try_lock", "SELECT pg_try_advisory_lock($1::int, $2::int)")

UNLOCK = Sql("session_unlock", "SELECT pg_advisory_unlock($1::int, $2::int)")

BEAT = Sql("session_beat", "SELECT 1")

JOIN = Sql("session_join", "SELECT pg_try_advisory_lock_shared($1::int, 0)")

MEMBERS = Sql(
    "session_members",
    """
SELECT count(*)
FROM pg_locks
WHERE locktype = 'advisory' AND granted AND mode = 'ShareLock'
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND classid = $1::int::oid AND objid = 0 AND objsubid = 2
""",
)
