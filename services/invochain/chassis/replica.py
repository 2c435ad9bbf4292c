"""Reads that a streaming replica may answer, and what each of them may be told (PROTOCOL 8).

A `Reader` has no transaction, so nothing that guards a write can be built on it. Whether a replica may answer is
decided on the connection that reads, before it reads: it must stand on the primary's timeline, have replayed the
caller's token, and be at most `LAG_S_MAX` behind. Everything else goes to the primary: a replica that is down, starting
or late, or whose replay cancelled the statement, costs time and is never an error.

How far behind a replica is comes from no clock but ours: a watcher notes where the primary's log ends, four times a
second, and a replica that has replayed as far as a note has all that was committed when the note was begun. So an idle
primary makes nobody late, and nothing is written to measure it.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg

from invochain.chassis import clock
from invochain.chassis.call import Call
from invochain.chassis.postgres import LSN, Postgres, Sql, Tx
from invochain.chassis.telemetry import READS, REPLICA_LAG_SECONDS, REPLICA_ROTATION, log
from invochain.errors import Refusal

T = TypeVar("T")

TOKEN, AS_OF = "x-consistency-token", "x-as-of"
# A replica that is further behind answers nobody (PROTOCOL 8).
LAG_S_MAX = 5.0
# It must leave within 1 s of crossing that: two looks, and the time a server takes that does not answer.
LOOK_EVERY_S = 0.25
LOOK_WITHIN_S = 0.4
# Of a read: far above what a healthy replica takes; then the primary has the rest of the caller's time.
READ_WITHIN_S = 1.0
POSITION_WITHIN_S = 0.4
# Notes of the primary's log; older ones than LAG_S_MAX say nothing that matters.
NOTES_MAX = 64
# Connections of the watcher are its own: a busy pool must not look like a dead server.
WATCHERS = 1


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the write-ahead log: timelines first, for a place on another one says nothing."""

    timeline: int
    lsn: int

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """A token; None for what is not one of ours (a caller may hold one of another release)."""
        match = _TOKEN.fullmatch(text)
        return cls(int(match[1], 16), int(match[2], 16) << 32 | int(match[3], 16)) if match else None


_TOKEN = re.compile(r"([0-9A-F]{8})/([0-9A-F]{1,8})/([0-9A-F]{1,8})", re.ASCII)


class Rows:
    """What a read may do: ask. It has no transaction, and a replica refuses to write by itself."""

    __slots__ = ("_place", "_tx")

    def __init__(self, tx: Tx, place: Sql | None) -> None:
        self._tx, self._place = tx, place

    async def fetch(self, sql: Sql, *args: Any) -> list[asyncpg.Record]:
        return await self._tx.fetch(sql, *args)

    async def fetchrow(self, sql: Sql, *args: Any) -> asyncpg.Record | None:
        return await self._tx.fetchrow(sql, *args)

    async def place(self) -> str:
        """A token of all that was read here so far; empty where there are no replicas, and nobody asks for it."""
        return str(await self._tx.fetchval(self._place)) if self._place else ""


@dataclass(frozen=True, slots=True)
class Note:
    """At `at_s` (monotonic), everything committed stood before `end` in the log of cluster `cluster`."""

    at_s: float
    cluster: int
    end: Position


class Replica:
    """One replica, and what was last seen of it."""

    def __init__(self, name: str, pool: Postgres, watching: Postgres) -> None:
        self.name, self.pool, self.watching = name, pool, watching
        # The newest note that it was seen to have reached, by its time; None: none yet, or it does not answer.
        self.current_at_s: float | None = None
        self.in_rotation = False

    def lag_s(self) -> float:
        """Seconds by which it may be behind; infinite when that is not known."""
        return float("inf") if self.current_at_s is None else clock.monotonic() - self.current_at_s


class Reader:
    """Reads of one database, by its replicas where they are fresh enough, else by its primary."""

    def __init__(self, primary: Postgres, watching: Postgres | None = None, replicas: Sequence[Replica] = ()) -> None:
        self._primary, self._watching, self._replicas = primary, watching, list(replicas)
        self._notes: deque[Note] = deque(maxlen=NOTES_MAX)
        self._turn = itertools.count()
        self._watch: list[asyncio.Task[None]] = []
        self._log = log("chassis")

    @classmethod
    async def open(cls, primary: Postgres, dsn: str, replica_dsns: Sequence[str], *, name: str, size: int) -> Reader:
        """A reader over the pool `primary` of the database at `dsn`; a replica may be down and come later.

        `size`: connections to each replica.
        """
        if not replica_dsns:
            return cls(primary)
        watching = await Postgres.connect(dsn, name=f"{name}-watch", size=WATCHERS, warm=0)
        replicas = []
        for number, replica_dsn in enumerate(replica_dsns, 1):
            label = f"{name}-replica-{number}"
            pool = await Postgres.connect(replica_dsn, name=label, size=size, warm=0)
            looking = await Postgres.connect(replica_dsn, name=f"{label}-watch", size=WATCHERS, warm=0)
            replicas.append(Replica(label, pool, looking))
        reader = cls(primary, watching, replicas)
        reader._watch = [asyncio.create_task(reader._keep_watching(), name=f"watch {name} replicas")]
        return reader

    async def close(self) -> None:
        for task in self._watch:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for replica in self._replicas:
            await asyncio.gather(replica.pool.close(), replica.watching.close())
        if self._watching is not None:
            await self._watching.close()

    async def read(
        self, call: Call, work: Callable[[Rows], Awaitable[T]], *, after: str = "", from_primary: bool = False
    ) -> T:
        """What `work` reads, for this call; it may be run twice. An answer of a replica says `x-as-of`.

        Nothing older is read than the call's consistency token, nor than `after` (`Rows.place` of an earlier read).
        What a replica answers holds all that was committed at `x-as-of`. `from_primary`: a replica's answer was not
        enough.
        """
        call.out.pop(AS_OF, None)
        why = "asked" if from_primary else "no_replica"
        if self._replicas and not from_primary:
            tokens = [Position.parse(text) for text in (call.consistency_token, after) if text]
            found, why = await self._from_replica(call, tokens, work)
            if found is not None:
                READS.labels(served_by="replica", why=why).inc()
                return found[0]
        READS.labels(served_by="primary", why=why).inc()
        async with self._primary.reading() as tx:
            return await work(Rows(tx, LSN if self._replicas else None))

    async def token(self) -> str:
        """A token of all that is committed now; empty where there are no replicas, or it cannot be had at once."""
        if not self._replicas:
            return ""
        try:
            async with self._primary.reading() as tx:
                return str(await tx.fetchval(LSN))
        except (Refusal, asyncpg.PostgresError):
            return ""

    async def _from_replica(
        self, call: Call, tokens: Sequence[Position | None], work: Callable[[Rows], Awaitable[T]]
    ) -> tuple[tuple[T] | None, str]:
        """A replica's answer, or None; and why. One replica is asked: two would take the caller's time."""
        if None in tokens:
            return None, "token_unreadable"
        ready = [one for one in self._replicas if one.in_rotation]
        if not ready:
            return None, "out_of_rotation"
        replica = ready[next(self._turn) % len(ready)]
        try:
            async with (
                asyncio.timeout(min(READ_WITHIN_S, max(call.remaining() / 2, 0))),
                replica.pool.reading() as tx,
            ):
                # On this very connection and before the read's snapshot: a server that crashed may come back with
                # less than it had.
                async with asyncio.timeout(POSITION_WITHIN_S):
                    row = await tx.fetchrow(POSITION)
                note, why = self._judge(row, tokens)
                if note is None:
                    return None, why
                answer = await work(Rows(tx, PLACE))
        except COLLIDES as cancelled:
            self._log.info("replica_cancelled", replica=replica.name, why=type(cancelled).__name__)
            return None, "cancelled"
        except (Refusal, TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as lost:
            # Whatever it was, the primary decides: a fault of the statement itself is seen there again.
            self._log.warning("replica_failed", replica=replica.name, why=type(lost).__name__)
            return None, "failed"
        call.out[AS_OF] = as_of(note)
        return (answer,), why

    def _judge(self, row: asyncpg.Record | None, tokens: Sequence[Position | None]) -> tuple[Note | None, str]:
        """Whether a replica that stands there may answer: the newest note it has reached, or None and why not."""
        latest = self._notes[-1] if self._notes else None
        if latest is None or row is None or not row["replica"]:
            return None, "not_a_replica"
        at = Position(row["timeline"], row["lsn"])
        if (row["cluster"], at.timeline) != (latest.cluster, latest.end.timeline):
            return None, "other_timeline"
        for token in tokens:
            if token is None or token.timeline != at.timeline:
                # Of before or after a failover: only the primary knows what became of it.
                return None, "token_of_other_timeline"
            if token.lsn > at.lsn:
                return None, "behind_token"
        for note in reversed(self._notes):
            if note.end <= at and note.end.timeline == at.timeline:
                fresh = clock.monotonic() - note.at_s <= LAG_S_MAX
                return (note, "token" if tokens else "no_token") if fresh else (None, "late")
        return None, "late"

    # ------------------------------------------------------------------------------------------------- watching

    async def _keep_watching(self) -> None:
        while True:
            began = clock.monotonic()
            await self._look_at_primary()
            await asyncio.gather(*(self._look_at(replica) for replica in self._replicas))
            await asyncio.sleep(max(LOOK_EVERY_S - (clock.monotonic() - began), 0.01))

    async def _look_at_primary(self) -> None:
        """One more note. Without new ones every replica runs late: it cannot be shown to be current."""
        assert self._watching is not None
        began = clock.monotonic()
        row = await _ask(self._watching, END)
        if row is not None:
            self._notes.append(Note(began, row["cluster"], Position(row["timeline"], row["lsn"])))

    async def _look_at(self, replica: Replica) -> None:
        row = await _ask(replica.watching, POSITION)
        if row is None:
            replica.current_at_s = None
        else:
            note, _ = self._judge(row, ())
            if note is not None:
                replica.current_at_s = note.at_s
        lag = replica.lag_s()
        fresh = lag <= LAG_S_MAX
        if fresh != replica.in_rotation:
            replica.in_rotation = fresh
            self._log.warning(
                "replica_in_rotation" if fresh else "replica_out_of_rotation",
                replica=replica.name,
                lag_s=round(lag, 2) if replica.current_at_s is not None else None,
                answers=row is not None,
            )
        REPLICA_ROTATION.labels(replica=replica.name).set(int(fresh))
        REPLICA_LAG_SECONDS.labels(replica=replica.name).set(lag)


async def _ask(server: Postgres, sql: Sql) -> asyncpg.Record | None:
    """A server's answer, or None if it has none in time."""
    try:
        async with asyncio.timeout(LOOK_WITHIN_S), server.reading() as tx:
            return await tx.fetchrow(sql)
    except (Refusal, TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return None


def as_of(note: Note) -> str:
    """The note's time as RFC 3339 in UTC, to the millisecond and never later than it was."""
    time = clock.now() - dt.timedelta(seconds=clock.monotonic() - note.at_s)
    return time.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1_000:03d}Z"


def split_urls(text: str) -> list[str]:
    """The URLs of a comma-separated list; a comma between the hosts of one URL parts nothing."""
    return [url.strip() for url in re.split(r",(?=\s*postgres)", text) if url.strip()]


# Recovery was in the way of the statement: it needed a row version, a lock or a buffer that the statement held.
COLLIDES = (asyncpg.SerializationError, asyncpg.QueryCanceledError, asyncpg.DeadlockDetectedError)

# Bytes since the beginning of the log. Flushed: what a replica can have been sent.
END = Sql(
    "replica_primary_end",
    """
SELECT
    ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int AS timeline,
    pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint AS lsn,
    (SELECT system_identifier FROM pg_control_system()) AS cluster
""",
)

# A standby tells its timeline in its control file only, and there late: after a failover it is behind the truth until
# the next restart point, and then the primary answers.
_TIMELINE = """greatest(
        (SELECT timeline_id FROM pg_control_checkpoint()),
        (SELECT min_recovery_end_timeline FROM pg_control_recovery())
    )"""

POSITION = Sql(
    "replica_position",
    f"""
SELECT
    pg_is_in_recovery() AS replica,
    pg_wal_lsn_diff(coalesce(pg_last_wal_replay_lsn(), '0/0'), '0/0')::bigint AS lsn,
    {_TIMELINE} AS timeline,
    (SELECT system_identifier FROM pg_control_system()) AS cluster
""",
)

# The same as a token.
PLACE = Sql(
    "replica_place",
    f"SELECT upper(lpad(to_hex({_TIMELINE}), 8, '0')) || '/' || coalesce(pg_last_wal_replay_lsn(), '0/0')::text",
)
